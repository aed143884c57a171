"""A layer with quantizers, as it is placed in a module for calibration and training."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosim.training.partial_sum_quantizer import LayerFacts, PartialSumQuantizer
from cosim.training.quantizers import Quantizer


class QuantizedLayer(nn.Module):
    """A Conv2d or Linear whose input and weight, and optionally its partial sums, pass through quantizers."""

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        weight_quantizer: Quantizer,
        input_quantizer: Quantizer,
        partial_sums: PartialSumQuantizer | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer
        self.partial_sums = partial_sums

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_quantizer(four_axes(self.layer.weight))
        x = self.input_quantizer(x)
        if self.partial_sums is not None:
            return self._on_columns(x, weight, self.partial_sums)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight[:, :, 0, 0], self.layer.bias)
        # Convolutions are twice as fast with channels last. A kernel of one channel takes this format only in a copy.
        weight = weight.clone(memory_format=torch.channels_last)
        return F.conv2d(x, weight, self.layer.bias, **geometry(self.layer))

    def _on_columns(self, x: Tensor, weight: Tensor, partial_sums: PartialSumQuantizer) -> Tensor:
        """The output with its partial sums digitized."""
        linear = isinstance(self.layer, nn.Linear)
        shape: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
        if isinstance(self.layer, nn.Conv2d):
            shape = geometry(self.layer)
        padding = shape.pop("padding")
        facts = LayerFacts(
            self.input_quantizer.positive_step().detach(),
            self.input_quantizer.zero_point(),
            self.input_quantizer.bits,
            self.weight_quantizer.positive_step().detach(),
            self.weight_quantizer.zero_point(),
            padding,
            shape,
        )
        y = partial_sums(four_axes(x), weight, facts)
        if self.layer.bias is not None:
            y = y + self.layer.bias[:, None, None]
        return y[:, :, 0, 0] if linear else y


def geometry(layer: nn.Conv2d) -> dict[str, Any]:
    """How a kernel moves over the image, as keyword arguments of `conv2d`. Tracing has made padding numbers."""
    return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}


def four_axes(value: Tensor) -> Tensor:
    """The weight or input of a linear layer in the shape of a 1x1 convolution's; that of a convolution unchanged."""
    return value if value.ndim == 4 else value[:, :, None, None]
