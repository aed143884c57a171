"""Makes networks: quantizers, the training loop, quantization of trained modules, and recipes."""

from cosim.training.quantize import Quantization, finetune, quantize

__all__ = ["Quantization", "finetune", "quantize"]
