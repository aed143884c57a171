"""Tables and pages from stored results; nothing here simulates."""

from cosim.report.page import write_page
from cosim.report.tables import layer_table, summary_table

__all__ = ["layer_table", "summary_table", "write_page"]
