"""A sweep as one HTML file that opens anywhere: from plain values, without PyTorch and without training anything."""

from .content import ReportRun, report_content
from .page import report_page

__all__ = ["ReportRun", "report_content", "report_page"]
