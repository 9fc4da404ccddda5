"""The report of an evaluation, as HTML, Markdown and JSON, and a model card."""

from medimind.evaluation.evidence import Evidence
from medimind.evaluation.report.write import ReportFiles, write_comparison_report, write_report

__all__ = ["Evidence", "ReportFiles", "write_comparison_report", "write_report"]
