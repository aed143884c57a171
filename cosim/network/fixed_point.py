"""Rescaling between layers in fixed point, as a chip does it: by integer multipliers and shifts.

Let >> be the shift that rounds down. Sums S, which are kept with 4 fraction bits, become words Y, which stand for real
outputs y:

    Y[o] = ((S M[o] + 2^(s[o] - 1)) >> s[o]) + B[o]        y = Y 2^-F

A real input x becomes a word X, and the word becomes an activation a:

    X = floor(x 2^G + 1/2)        a = ((X m + 2^(t - 1)) >> t) + input_zero_point, clipped

Halves are thus always rounded up. Words have 24 bits and saturate. Each layer has its own positions F and G of the
binary points: F is such that the largest output of exact sums fits, and G such that the largest activation fits.

All of this is exact in float64. A multiplier and its shift are one factor M 2^-s, whose significand has no more bits
than the multiplier. The product of a word or sum with it has at most 24 + 4 + 24 of the 53 bits, and adding 1/2 and
rounding down is the shift. The outputs of layers are exact too, and so are sums and maxima of outputs with different
binary points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosim.errors import NetworkError
from cosim.network.layers import LayerSpec

WORD_BITS = 24  # in two's complement
# Number of fraction bits of sums. Exact sums are whole numbers, but sums of a circuit have fractions if codes are
# corrected digitally or noise is drawn for whole sums.
SUM_POINT = 4
_LARGEST_WORD = 2 ** (WORD_BITS - 1) - 1
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-38, 1e38
# Number of values computed at a time. Their words stay in the cache, which is four times faster.
_PART = 1 << 17
_HALF = torch.tensor(0.5, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """The quantizer of a layer's inputs and the scaling of its sums, in fixed point (a `Rescaling`).

    Attributes:
        layer: the layer.
        input_point: fraction bits of input words, G; negative if the lowest bit stands for more than 1.
        input_factor: m 2^-t.
        output_factor: M 2^-s of each output, (outputs, 1, 1) float64.
        output_point: fraction bits of output words, F.
        bias: B, (outputs, 1, 1) whole numbers in float64.
    """

    layer: LayerSpec
    input_point: int
    input_factor: Tensor
    output_factor: Tensor
    output_point: int
    bias: Tensor

    @classmethod
    def of(cls, layer: LayerSpec, multiplier_bits: int) -> FixedPoint:
        """The fixed-point numbers that come closest to a layer's scales and bias.

        Args:
            layer: the layer.
            multiplier_bits: bits of a multiplier without its sign, 4 to 24.

        Raises:
            NetworkError: the layer's activation scale is too small or too large for fixed point.
        """
        step = float(layer.activation_scale)
        if not _SMALLEST_SCALE <= step <= _LARGEST_SCALE:
            raise NetworkError(
                f"layer {layer.name!r}: fixed point takes activation scales of {_SMALLEST_SCALE:g} to "
                f'{_LARGEST_SCALE:g}, found {step:g}: train or export it again, or set run.rescale to "float"'
            )
        input_point = _binary_point(step * 2**layer.activation_bits)
        # Rounding the multiplier changes an output by at most this share of the largest output.
        output_point = _binary_point(_largest_output(layer) * (1 + 2.0 ** (2 - multiplier_bits)))
        input_factor = torch.tensor(math.ldexp(1 / step, -input_point), dtype=torch.float64)
        output_factor = layer.output_scale.double() * math.ldexp(1.0, output_point - SUM_POINT)
        return cls(
            layer,
            input_point,
            _shortened(input_factor, multiplier_bits),
            _shortened(output_factor, multiplier_bits)[:, None, None],
            output_point,
            _rounded(layer.output_bias.double(), math.ldexp(1.0, output_point))[:, None, None],
        )

    def quantize_input(self, x: Tensor) -> Tensor:
        """Unsigned integer activations of real inputs: a padded float32 image (n, inputs, height, width).

        Saturation of input words has no effect, since they hold every value that is not clipped anyway.
        """

        def activations(x: Tensor) -> Tensor:
            words = _rounded(x.double(), math.ldexp(1.0, self.input_point))
            return _rounded(words, self.input_factor)

        return self.layer.clipped(_in_parts(activations, self.layer.as_images(x), torch.float32))

    def scale_output(self, sums: Tensor) -> Tensor:
        """Outputs in float64 from sums (n, outputs, height, width), which are rounded to their fraction bits."""

        def outputs(sums: Tensor) -> Tensor:
            words = _rounded(_rounded(sums.double(), 2.0**SUM_POINT), self.output_factor)
            words.add_(self.bias).clamp_(-_LARGEST_WORD - 1, _LARGEST_WORD)
            return words.mul_(math.ldexp(1.0, -self.output_point))

        return self.layer.as_output(_in_parts(outputs, sums, torch.float64))


def _in_parts(compute: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> Tensor:
    """Apply an elementwise function to images x (n, ...), a few images at a time."""
    found, images = torch.empty_like(x, dtype=dtype), max(1, _PART // max(1, x[:1].numel()))
    for part, into in zip(x.split(images), found.split(images), strict=True):
        into.copy_(compute(part))
    return found


def _rounded(x: Tensor, factor: float | Tensor) -> Tensor:
    """x times a factor, to the nearest whole number, halves up."""
    return torch.addcmul(_HALF, x, torch.as_tensor(factor, dtype=x.dtype)).floor_()


def _shortened(factor: Tensor, bits: int) -> Tensor:
    """Factors in float64, rounded to the given number of significant bits."""
    mantissa, exponent = np.frexp(factor.numpy())  # 1/2 <= |mantissa| < 1
    most = 2**bits - 1
    return torch.as_tensor(np.ldexp(np.rint(mantissa * 2**bits).clip(-most, most), exponent - bits))


def _binary_point(largest: float) -> int:
    """The largest number of fraction bits with which numbers up to `largest` fit into a word."""
    mantissa, exponent = math.frexp(largest)  # largest < 2^exponent
    return WORD_BITS - 1 - exponent if mantissa else 0


def _largest_output(layer: LayerSpec) -> float:
    """The largest absolute output of a layer with exact sums. If all weights are zero, sums are taken as up to 1."""
    weight, highest = layer.weight.to(torch.int64), 2**layer.activation_bits - 1
    above = (highest * weight.clamp_min(0).sum(dim=(1, 2, 3))).clamp_min(1)
    below = (highest * weight.clamp_max(0).sum(dim=(1, 2, 3))).clamp_max(-1)
    reached = layer.output_scale.double() * torch.stack([below, above]) + layer.output_bias.double()
    return float(reached.abs().max())
