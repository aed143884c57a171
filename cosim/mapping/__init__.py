"""LayerSpec -> TilePlan: where each weight lies, and which patterns the activations put on the wordlines."""

from cosim.mapping.patterns import (
    bit_plane_patterns,
    deck_patterns,
    gray_order,
    input_states,
    pulse_patterns,
)
from cosim.mapping.plan import ENUMERATED_INPUTS, Group, TilePlan, plan_tiles
from cosim.mapping.scheme import ReadScheme

__all__ = [
    "ENUMERATED_INPUTS",
    "Group",
    "ReadScheme",
    "TilePlan",
    "bit_plane_patterns",
    "deck_patterns",
    "gray_order",
    "input_states",
    "plan_tiles",
    "pulse_patterns",
]
