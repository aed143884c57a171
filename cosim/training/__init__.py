"""How a network is made: quantizers, fitting, the quantization of a trained module, recipes."""

from cosim.training.quantize import Quantization, finetune, quantize

__all__ = ["Quantization", "finetune", "quantize"]
