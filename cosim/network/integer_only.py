"""Networks of XNOR or shifts, which compute with integers alone from the first quantizer to the logits.

If weights are odd integers, they are sums of +-2^j: a product of bits is an XNOR, and a sum of products a population
count. If weights are zero or signed powers of two, a product is a shift. Scale, bias, activation function and quantizer
between two layers are a function of an integer sum, so a table of integers replaces them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cosim.errors import NetworkError
from cosim.network.layers import LayerSpec, Network, SoftwareStep

# Elementwise functions that never fall. They can become a table, and max pooling can be done after it.
_INTO_TABLE = ("relu", "relu6", "leaky_relu")
_ON_INTEGERS = ("max_pool2d", "flatten")


class IntegerNetwork:
    """A chain of layers that computes with XNOR, population counts and shifts, bit for bit equal to the network.

    Raises:
        NetworkError: a layer's weights are of neither kind, or a step between layers does not work on single values.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.layers = network.layers
        for layer in self.layers:
            kind_of(layer)
            if layer.partial_sums is not None:
                raise NetworkError(f"layer {layer.name!r} digitizes partial sums, but integers alone give exact sums")
        self._between = _steps_between(network)
        self._tables = [
            _table(layer, steps, behind)
            for layer, steps, behind in zip(self.layers, self._between, self.layers[1:], strict=False)
        ]

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, height, width) with values in 0..1."""
        self.network.check_images(images)
        activations = self.layers[0].quantize_input(images).to(torch.int64).numpy()
        for layer, (low, table), steps, behind in zip(
            self.layers, self._tables, self._between, self.layers[1:], strict=False
        ):
            sums = bitwise_sums(layer, activations)
            answered = torch.from_numpy(table[np.arange(layer.outputs)[:, None, None], sums - low])
            for step in steps:
                if step.name in _ON_INTEGERS:
                    answered = step(answered.to(torch.float32)).to(torch.int64)  # only moved and compared
            activations = _padded(behind, answered).numpy()
        last = torch.from_numpy(bitwise_sums(self.layers[-1], activations))
        return self.layers[-1].scale_output(last.to(torch.float32))


def kind_of(layer: LayerSpec) -> str:
    """ "xnor" for odd weights, "shift" for zeros and signed powers of two.

    Raises:
        NetworkError: the weights are of neither kind.
    """
    weights = layer.weight.abs()
    if bool((weights % 2 == 1).all()):
        return "xnor"
    if bool(((weights & (weights - 1)) == 0).all()):
        return "shift"
    raise NetworkError(
        f"layer {layer.name!r} has weights that are neither all odd nor all powers of two: quantize it with "
        'weight_quantizer "expected", "odd" or "power-of-two"'
    )


def bitwise_sums(layer: LayerSpec, activations: np.ndarray) -> np.ndarray:
    """Layer sums (n, outputs, height, width), int64, by XNOR or shift.

    Args:
        activations: (n, inputs, height, width) unsigned integers, padded.
    """
    rows = _unrolled(layer, activations)  # n, height, width, groups, depth
    weights = layer.weight.reshape(layer.groups, layer.outputs // layer.groups, -1).numpy().astype(np.int64)
    make = _xnor_sums if kind_of(layer) == "xnor" else _shift_sums
    return make(rows, weights, layer.activation_bits).reshape(*rows.shape[:3], layer.outputs).transpose(0, 3, 1, 2)


def _xnor_sums(rows: np.ndarray, weights: np.ndarray, bits: int) -> np.ndarray:
    """Layer sums by XNOR and population counts.

    A weight is the sum of 2^j W_j with W_j = +-1. For bits a and A = 2 a - 1, sum W a = (sum W A + sum W) / 2, and
    sum W A is the number of rows less twice the number of rows in which W and A differ.
    """
    depth = weights.shape[2]
    planes = max(1, int(np.abs(weights).max()).bit_length())
    places = (weights + 2**planes - 1) // 2
    sums = np.zeros((*rows.shape[:4], weights.shape[1]), np.int64)
    for place in range(planes):
        signs = (places >> place) & 1
        packed = _packed(signs)
        total = 2 * signs.sum(axis=2) - depth
        for bit in range(bits):
            differing = np.bitwise_count(_packed((rows >> bit) & 1)[..., None, :] ^ packed).sum(axis=-1, dtype=np.int64)
            sums += ((depth - 2 * differing + total) >> 1) << (place + bit)
    return sums


def _shift_sums(rows: np.ndarray, weights: np.ndarray, bits: int) -> np.ndarray:
    """Layer sums by shifts: for each power, activations are added or subtracted by sign, and the result is shifted."""
    sums = np.zeros((*rows.shape[:4], weights.shape[1]), np.int64)
    for power in range(int(np.abs(weights).max()).bit_length()):
        signs = np.sign(weights) * (np.abs(weights) == 1 << power)
        if signs.any():
            sums += np.einsum("nhwgr,gor->nhwgo", rows, signs, optimize=True) << power
    return sums


def _packed(bits: np.ndarray) -> np.ndarray:
    """Pack zeros and ones along the last axis into words of 64 bits."""
    packed = np.packbits(bits.astype(np.uint8), axis=-1)
    missing = -packed.shape[-1] % 8
    return np.ascontiguousarray(np.pad(packed, [(0, 0)] * (packed.ndim - 1) + [(0, missing)])).view(np.uint64)


def _unrolled(layer: LayerSpec, activations: np.ndarray) -> np.ndarray:
    """Windows of a convolution: (n, height, width, groups, inputs / groups * kernel height * kernel width)."""
    (down, right), (tall, wide) = layer.dilation, layer.weight.shape[2:]
    reach = (down * (tall - 1) + 1, right * (wide - 1) + 1)
    windows = np.lib.stride_tricks.sliding_window_view(activations, reach, axis=(2, 3))
    windows = windows[:, :, :: layer.stride[0], :: layer.stride[1], ::down, ::right].transpose(0, 2, 3, 1, 4, 5)
    return windows.reshape(*windows.shape[:3], layer.groups, -1)


def _padded(layer: LayerSpec, activations: Tensor) -> Tensor:
    if layer.kind == "linear":
        activations = activations[:, :, None, None]
    (high, wide) = layer.padding
    return torch.nn.functional.pad(activations, (wide, wide, high, high), value=layer.input_zero_point)


def _table(layer: LayerSpec, steps: list[SoftwareStep], behind: LayerSpec) -> tuple[int, np.ndarray]:
    """The smallest sum of a layer, and the next layer's activation for each sum from there on, (outputs, sums)."""
    largest = 2**layer.activation_bits - 1
    low = largest * int(layer.weight.clamp(max=0).sum(dim=(1, 2, 3)).min())
    high = largest * int(layer.weight.clamp(min=0).sum(dim=(1, 2, 3)).max())
    sums = torch.arange(low, high + 1, dtype=torch.float32).expand(1, layer.outputs, 1, -1)
    y = sums * layer.output_scale[:, None, None] + layer.output_bias[:, None, None]
    for step in steps:
        if step.name in _INTO_TABLE:
            y = step(y)
    integers = (y / behind.activation_scale).round_().add_(behind.input_zero_point)
    return low, integers.clamp_(0, 2**behind.activation_bits - 1)[0, :, 0].to(torch.int64).numpy()


def _steps_between(network: Network) -> list[list[SoftwareStep]]:
    """The software steps after each layer except the last."""
    between: list[list[SoftwareStep]] = []
    previous = network.steps[0].inputs
    for step in network.steps:
        operation = step.operation
        plain = isinstance(operation, LayerSpec) or operation.name in (*_INTO_TABLE, *_ON_INTEGERS)
        if not plain or step.inputs != previous:
            raise NetworkError(
                f"step {step.name!r} needs more than integers: a chain of layers, ReLU and max pooling does not"
            )
        previous = (step.name,)
        if isinstance(operation, LayerSpec):
            between.append([])
        elif operation.arguments.get("negative_slope", 0) < 0:
            raise NetworkError(f"step {step.name!r} falls where its input is negative: a slope must be >= 0")
        elif not between:
            raise NetworkError(f"step {step.name!r} comes before the first layer: begin with a layer")
        else:
            between[-1].append(operation)
    if between[-1]:
        raise NetworkError(f"step {network.steps[-1].name!r} comes after the last layer: end with a layer")
    return between
