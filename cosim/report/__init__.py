"""Reports: makes tables, plots and pages from stored results, without simulating anything."""

from cosim.report.cautions import find_cautions
from cosim.report.page import write_page
from cosim.report.tables import disagreement_table, layer_table, summary_table

__all__ = ["disagreement_table", "find_cautions", "layer_table", "summary_table", "write_page"]
