"""The quantized network: integer layers for the arrays, the steps between them, and their files."""

from cosim.network.fixed_point import FixedPoint
from cosim.network.layers import LayerSpec, Network, Rescaling, SoftwareStep, Step, integer_mvm
from cosim.network.storage import load_network, save_network, shipped_networks

__all__ = [
    "FixedPoint",
    "LayerSpec",
    "Network",
    "Rescaling",
    "SoftwareStep",
    "Step",
    "integer_mvm",
    "load_network",
    "save_network",
    "shipped_networks",
]
