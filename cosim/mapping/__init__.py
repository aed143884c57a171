"""Mapping: decides where each weight of a layer lies, and which patterns its activations put on the wordlines."""

from cosim.mapping.patterns import block_reads, deck_patterns, gray_order
from cosim.mapping.plan import ENUMERATED_INPUTS, Group, TilePlan, plan_tiles
from cosim.mapping.schedule import ReadSchedule
from cosim.mapping.scheme import ReadScheme

__all__ = [
    "ENUMERATED_INPUTS",
    "Group",
    "ReadSchedule",
    "ReadScheme",
    "TilePlan",
    "block_reads",
    "deck_patterns",
    "gray_order",
    "plan_tiles",
]
