"""Tuned models in the formats that others load."""

from medimind.export.adapter_copy import export_adapter
from medimind.export.merge import export_merged

__all__ = ["export_adapter", "export_merged"]
