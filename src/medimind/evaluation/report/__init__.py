"""The report of an evaluation, as HTML, Markdown and JSON."""

from medimind.evaluation.report.write import ReportFiles, write_report

__all__ = ["ReportFiles", "write_report"]
