"""PyTorch in, integers out: quantizers, training, and the quantized network as layers for the arrays."""

from cosim.network.layers import LayerSpec, Network, SoftwareStep, Step, integer_mvm
from cosim.network.quantize import Quantization, finetune, quantize
from cosim.network.storage import load_network, save_network, shipped_networks

__all__ = [
    "LayerSpec",
    "Network",
    "Quantization",
    "SoftwareStep",
    "Step",
    "finetune",
    "integer_mvm",
    "load_network",
    "quantize",
    "save_network",
    "shipped_networks",
]
