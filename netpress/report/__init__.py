"""HTML reports from run folders only; nothing is computed again, nothing is fetched, PyTorch is not imported."""

from netpress.report.page import write_report

__all__ = ["write_report"]
