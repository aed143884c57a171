"""A layer with quantizers, as it stands in a module that is being calibrated or trained."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosim.errors import NetworkError
from cosim.network.quantizers import Quantizer


class QuantizedLayer(nn.Module):
    """A Conv2d or Linear whose input and weight pass through quantizers."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, weight_quantizer: Quantizer, input_quantizer: Quantizer) -> None:
        super().__init__()
        self.layer = layer
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_quantizer(four_axes(self.layer.weight))
        x = self.input_quantizer(x)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight[:, :, 0, 0], self.layer.bias)
        # Convolutions are twice as fast with channels last, which a kernel of one channel forgets.
        weight = weight.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, weight, self.layer.bias, **geometry(self.layer))


def geometry(layer: nn.Conv2d) -> dict[str, Any]:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise NetworkError(f"cannot export {layer}: give padding as numbers, with zeros")
    return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}


def four_axes(weight: Tensor) -> Tensor:
    """A linear layer's weight as that of a 1x1 convolution; a convolution's as it is."""
    return weight if weight.ndim == 4 else weight[:, :, None, None]
