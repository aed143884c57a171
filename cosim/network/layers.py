"""The quantized network: integer layers for the arrays, and the software steps between them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosim.arithmetic.partial_sums import Columns, PartialSums, digitized_sums
from cosim.errors import NetworkError, nearest
from cosim.network.software_step import LARGEST_COUNT, SoftwareStep

# Numbers of an image, values that the results of all steps for one image have together, and steps. More are most likely
# a mistake, and would take all memory or time.
LARGEST_IMAGE = 1 << 24
MOST_VALUES = 1 << 28
MOST_STEPS = 2000
# Beyond it, values of layers that compute in float64 are not finite either.
LARGEST_VALUE = torch.finfo(torch.float32).max

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def check_name(name: object, what: str) -> None:
    """Refuse a name that could have a meaning in a netlist or a path.

    Raises:
        NetworkError: the name holds more than letters, digits, `_`, `.` and `-`, starts with one of the last two, or is
            too long.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise NetworkError(
            f"{what} must be named with at most 64 letters, digits, '_', '.', '-', the first not '.' or '-', found "
            f"{str(name)[:80]!r}: rename it"
        )


def check_image_shape(shape: Sequence[object], what: str) -> None:
    """Raise NetworkError unless a shape is (channels, height, width) of an image of a reasonable size."""
    counts = [size for size in shape if type(size) is int and size >= 1]
    if len(counts) != 3 or len(shape) != 3:
        raise NetworkError(
            f"{what} takes images of shape {tuple(shape)}, expected (channels, height, width), whole numbers from 1"
        )
    if math.prod(counts) > LARGEST_IMAGE:
        raise NetworkError(
            f"{what} takes images of shape {tuple(counts)}, expected at most {LARGEST_IMAGE} numbers: take smaller ones"
        )


def step_name(path: str) -> str:
    """The path of a module as a name that `check_name` accepts, except for its length: other characters become `_`."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", path)
    return f"_{name}" if name.startswith((".", "-")) else name


def _are_counts(values: object, length: int) -> bool:
    """Whether `values` is a tuple of `length` whole numbers that are not beyond reason."""
    return (
        isinstance(values, tuple)
        and len(values) == length
        and all(type(value) is int and abs(value) <= LARGEST_COUNT for value in values)
    )


@dataclass(frozen=True, eq=False)
class LayerSpec:
    """A convolution or linear layer in integers.

    For an input x the layer computes, with unsigned integers a = clip(round(x / activation_scale) + input_zero_point),

        y[o] = output_scale[o] * sum(weight[o] * a) + output_bias[o]

    so that everything between the activation quantizer and the output scale is exact in integers. Padding is
    `input_zero_point`, which stands for a real zero, and `output_bias` corrects what it adds to the sums. A linear
    layer is a 1x1 convolution of a 1x1 image.

    Attributes:
        weight: (outputs, inputs / groups, kernel height, kernel width) signed integers.
        weight_bits: 1 to 8; a weight w of output o is stored as level w + zero_point[o] in 0..2^weight_bits - 1.
        zero_point: (outputs,) int32 levels that stand for weight 0.
        activation_bits: 1 to 8, the number of bit planes.
        output_scale: (outputs,) float32; it includes batch norm, if any.
        output_bias: (outputs,) float32; it includes batch norm, if any.
        input_zero_point: the activation that stands for a real zero, 0..2^activation_bits - 1.
        partial_sums: how the arrays that it was trained for digitize its sums, and software as well; None for exact
            sums.
    """

    name: str
    kind: str
    weight: Tensor
    weight_bits: int
    zero_point: Tensor
    activation_bits: int
    activation_scale: float
    output_scale: Tensor
    output_bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    input_zero_point: int = 0
    partial_sums: PartialSums | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "a layer")
        where = f"layer {self.name!r}"
        if not (
            _are_counts((self.weight_bits, self.activation_bits, self.groups, self.input_zero_point), 4)
            and _are_counts(self.stride, 2)
            and _are_counts(self.padding, 2)
            and _are_counts(self.dilation, 2)
        ):
            raise NetworkError(
                f"{where}: bits, groups and the input zero point must be whole numbers up to {LARGEST_COUNT}, and "
                "stride, padding and dilation two each: write the card again"
            )
        if self.kind not in ("conv2d", "linear"):
            raise NetworkError(f"{where}: kind must be conv2d or linear, found {self.kind!r}")
        if self.weight.ndim != 4 or self.weight.numel() == 0:
            raise NetworkError(f"{where}: weights must have 4 non-empty axes, found {tuple(self.weight.shape)}")
        for name, bits in (("weight_bits", self.weight_bits), ("activation_bits", self.activation_bits)):
            if not 1 <= bits <= 8:
                raise NetworkError(f"{where}: {name} must be 1 to 8, found {bits}")
        outputs, highest = self.weight.shape[0], 2**self.weight_bits - 1
        if tuple(self.zero_point.shape) != (outputs,):
            raise NetworkError(
                f"{where}: zero points must have shape ({outputs},), found {tuple(self.zero_point.shape)}"
            )
        low, high = int(self.zero_point.min()), int(self.zero_point.max())
        if low < 0 or high > highest:
            raise NetworkError(f"{where}: zero points must be levels 0..{highest}, found {low}..{high}")
        levels = self.levels()
        low, high = int(levels.min()), int(levels.max())
        if low < 0 or high > highest:
            raise NetworkError(
                f"{where}: weights need levels {low}..{high}, but {self.weight_bits} bits hold 0..{highest}: "
                "quantize to more bits or move the zero point"
            )
        if not 0 <= self.input_zero_point < 2**self.activation_bits:
            raise NetworkError(
                f"{where}: input zero point must be 0..{2**self.activation_bits - 1}, found {self.input_zero_point}"
            )
        for name, values in (("output_scale", self.output_scale), ("output_bias", self.output_bias)):
            if tuple(values.shape) != (outputs,):
                raise NetworkError(f"{where}: {name} must have shape ({outputs},), found {tuple(values.shape)}")
            if not torch.isfinite(values).all():
                raise NetworkError(f"{where}: {name} holds NaN or infinite values: train or export it again")
        if not isinstance(self.activation_scale, int | float) or not 0 < float(self.activation_scale) < math.inf:
            raise NetworkError(f"{where}: activation scale must be finite and > 0, found {self.activation_scale}")
        if min(self.stride) < 1 or min(self.dilation) < 1 or min(self.padding) < 0 or self.groups < 1:
            raise NetworkError(
                f"{where}: stride, dilation and groups must be >= 1 and padding >= 0, found stride {self.stride}, "
                f"dilation {self.dilation}, groups {self.groups}, padding {self.padding}"
            )
        if outputs % self.groups:
            raise NetworkError(f"{where}: {outputs} outputs cannot be split into {self.groups} groups")
        if self.partial_sums is not None and self.weight_bits > self.partial_sums.cell_bits:
            raise NetworkError(
                f"{where}: partial sums need each weight in one cell, found {self.weight_bits} bits for cells of "
                f"{self.partial_sums.cell_bits}: lower the weight bits or raise cell.bits"
            )
        # Integer sums are stored in float32 tensors, which are exact up to 2^24. Activations are not negative, so
        # whatever the order of a sum, it stays between that of its negative and that of its positive weights.
        weight = self.weight.to(torch.int64)
        reach = max(int(side.clamp_min(0).sum(dim=(1, 2, 3)).max()) for side in (weight, -weight))
        largest = reach * (2**self.activation_bits - 1)
        if largest >= 2**24:
            raise NetworkError(
                f"{where}: sums may reach {largest}, beyond the exact range 2^24: lower weight_bits "
                f"({self.weight_bits}) or activation_bits ({self.activation_bits}), or split the layer"
            )

    @property
    def inputs(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    def levels(self) -> Tensor:
        """The weights as levels 0..2^weight_bits - 1, int32, of the weights' shape."""
        return self.weight.to(torch.int32) + self.zero_point[:, None, None, None]

    def geometry(self) -> dict[str, Any]:
        """Keyword arguments of `conv2d` that say how a kernel moves over activations, which are padded already."""
        return {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}

    def as_images(self, x: Tensor) -> Tensor:
        """The layer's input as (n, inputs, height, width): that of a linear layer has 1x1 pixels."""
        if self.kind == "linear":
            x = x[:, :, None, None]
        if x.ndim != 4 or x.shape[1] != self.inputs:
            raise NetworkError(
                f"layer {self.name!r} takes {self.inputs} input channels, found a tensor of shape {tuple(x.shape)}"
            )
        return x

    def clipped(self, integers: Tensor) -> Tensor:
        """Activations of rounded inputs (n, inputs, height, width), by the zero point: clipped in place, and padded."""
        integers.add_(self.input_zero_point).clamp_(0, 2**self.activation_bits - 1)
        (high, wide) = self.padding
        return (
            F.pad(integers, (wide, wide, high, high), value=float(self.input_zero_point)) if high or wide else integers
        )

    def quantize_input(self, x: Tensor) -> Tensor:
        """Quantize x to unsigned integer activations: a padded float32 image (n, inputs, height, width)."""
        return self.clipped((self.as_images(x).float() / self.activation_scale).round_())

    def scale_output(self, sums: Tensor) -> Tensor:
        """Real outputs from integer sums (n, outputs, height, width)."""
        y = sums * self.output_scale[:, None, None] + self.output_bias[:, None, None]
        return self.as_output(y)

    def as_output(self, y: Tensor) -> Tensor:
        """Outputs (n, outputs, height, width) as the next step takes them: those of a linear layer have no pixels."""
        return y[:, :, 0, 0] if self.kind == "linear" else y


class Rescaling(Protocol):
    """The quantizer of a layer's inputs and the scaling of its sums. A LayerSpec itself does both in float32."""

    def quantize_input(self, x: Tensor) -> Tensor:
        """Unsigned integer activations of real inputs: a padded float32 image (n, inputs, height, width)."""
        ...

    def scale_output(self, sums: Tensor) -> Tensor:
        """Real outputs from sums (n, outputs, height, width)."""
        ...


def integer_mvm(layer: LayerSpec, activations: Tensor) -> Tensor:
    """Sums of a layer in software, (n, outputs, height, width) in float32: exact, or digitized as it was trained for.

    Args:
        layer: the layer.
        activations: (n, inputs, height, width) unsigned integers, padded.
    """
    if layer.partial_sums is not None:
        geometry, bits = layer.geometry(), layer.activation_bits
        columns = Columns.of(layer.levels(), layer.zero_point, layer.partial_sums, geometry, bits)
        return digitized_sums(columns, layer.partial_sums, activations)
    return F.conv2d(activations, layer.weight.to(torch.float32), **layer.geometry())


@dataclass(frozen=True)
class Step:
    """An operation of a network, with its name, and the steps whose results it takes (IMAGES for the images)."""

    name: str
    operation: LayerSpec | SoftwareStep
    inputs: tuple[str, ...]


IMAGES = "images"


def chain(operations: Iterable[LayerSpec | SoftwareStep]) -> list[Step]:
    """Steps that each take the result of the step before. Software steps are named by kind and number."""
    steps: list[Step] = []
    for number, operation in enumerate(operations, 1):
        name = operation.name if isinstance(operation, LayerSpec) else f"{operation.name}.{number}"
        steps.append(Step(name, operation, (steps[-1].name if steps else IMAGES,)))
    return steps


class Network(nn.Module):
    """A quantized classifier: integer layers and software steps, each of which takes the results of earlier ones.

    Attributes:
        name: name of the network in decks and results.
        input_shape: (channels, height, width) of an image with values in 0..1.
        steps: the steps, each after those that it takes its inputs from; the last one gives the logits. A plain list of
            LayerSpec and SoftwareStep is a chain.
        float_weights: layer name -> (weight, bias) of the float network that it was quantized from, or None.
        card: any facts that its author noted about it (recipe, seed, data, accuracies).
        source: what `load_network` was given, or the name.
    """

    def __init__(
        self,
        name: str,
        input_shape: tuple[int, int, int],
        steps: Sequence[Step | LayerSpec | SoftwareStep],
        *,
        float_weights: dict[str, tuple[Tensor, Tensor]] | None = None,
        card: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_name(name, "a network")
        check_image_shape(input_shape, f"network {name!r}")
        self.name = name
        self.input_shape = input_shape
        self.steps = _steps(steps)
        self.float_weights = float_weights
        self.card = card or {}
        self.source = name
        if len(self.steps) > MOST_STEPS:
            raise NetworkError(
                f"network {name!r} has {len(self.steps)} steps, expected at most {MOST_STEPS}: take a smaller network"
            )
        if not self.layers:
            raise NetworkError(f"network {name!r} has no convolution or linear layer: nothing to put on an array")
        seen = {IMAGES}
        for step in self.steps:
            check_name(step.name, "a step")
            if step.name in seen:
                raise NetworkError(f"network {name!r} has two steps named {step.name!r}: rename one")
            for needed in step.inputs:
                if needed not in seen:
                    raise NetworkError(
                        f"step {step.name!r} takes {needed!r}, which comes no earlier: {nearest(needed, seen)}"
                    )
            if not step.inputs or (isinstance(step.operation, LayerSpec) and len(step.inputs) != 1):
                raise NetworkError(
                    f"step {step.name!r} has {len(step.inputs)} inputs: a layer takes one, others at least one"
                )
            seen.add(step.name)

    @property
    def layers(self) -> list[LayerSpec]:
        """The layers that can go on an array."""
        return [step.operation for step in self.steps if isinstance(step.operation, LayerSpec)]

    def check_images(self, images: Tensor) -> None:
        """Raise NetworkError unless images are real tensors (n, *input_shape) with values in 0..1."""
        if not isinstance(images, Tensor) or not images.is_floating_point():
            raise NetworkError(
                f"images must be a float tensor, found {getattr(images, 'dtype', type(images).__name__)}: "
                "convert them with torch.as_tensor(images, dtype=torch.float32)"
            )
        if images.ndim == 3 and tuple(images.shape[1:]) == tuple(self.input_shape[1:]):
            raise NetworkError("images must be (n, channels, height, width): add the channels with images[:, None]")
        if tuple(images.shape[1:]) != tuple(self.input_shape):
            raise NetworkError(
                f"network {self.name!r} takes images of shape {tuple(self.input_shape)}, found "
                f"{tuple(images.shape[1:])}: choose the data set it was trained on"
            )
        if images.numel() and not (images.min() >= 0 and images.max() <= 1):
            raise NetworkError(
                f"images must have values in 0..1, found {images.min():.3g}..{images.max():.3g}: "
                "divide by their full scale"
            )

    def forward(
        self,
        images: Tensor,
        mvm: Callable[[LayerSpec, Tensor], Tensor] = integer_mvm,
        rescaling: Mapping[str, Rescaling] = {},
    ) -> Tensor:
        """Logits (n, classes) of images (n, channels, height, width) with values in 0..1.

        Args:
            images: the images.
            mvm: computes the integer sums of a layer from its integer activations: exact software by default.
            rescaling: by name, what quantizes inputs and scales sums of layers that do not do it themselves.

        Raises:
            NetworkError: the images do not fit, or a step gives values that are not finite; the first one is named.
        """

        def compute(layer: LayerSpec, x: Tensor) -> Tensor:
            ends = rescaling.get(layer.name, layer)
            return ends.scale_output(mvm(layer, ends.quantize_input(x)))

        self.check_images(images)
        with torch.autocast(images.device.type, enabled=False):  # integers are exact in float32 only
            return self._run(images.float(), compute).float()

    def _run(self, images: Tensor, compute: Callable[[LayerSpec, Tensor], Tensor]) -> Tensor:
        """The result of the last step. `compute` computes the layers, and results are dropped after their last use."""
        last_use = {needed: number for number, step in enumerate(self.steps) for needed in step.inputs}
        results = {IMAGES: images}
        for number, step in enumerate(self.steps):
            inputs = [results[needed] for needed in step.inputs]
            for needed in set(step.inputs):
                if last_use[needed] == number:
                    del results[needed]
            operation = step.operation
            result = compute(operation, *inputs) if isinstance(operation, LayerSpec) else operation(*inputs)
            # The ends show nan, too, and need no other tensor.
            ends = (result.amin(), result.amax()) if result.numel() else ()
            if not all(abs(float(end)) <= LARGEST_VALUE for end in ends):
                raise NetworkError(self._not_finite(step))
            results[step.name] = result
        return results[self.steps[-1].name]

    def _not_finite(self, step: Step) -> str:
        operation = step.operation
        where = f"{'layer' if isinstance(operation, LayerSpec) else 'step'} {step.name!r} of network {self.name!r}"
        cause = "check its arguments"
        if isinstance(operation, LayerSpec):
            largest = max(float(values.abs().max()) for values in (operation.output_scale, operation.output_bias))
            cause = f"check its output scale and bias, which reach {largest:.3g}, and its float weights"
        return f"{where} is the first that gives values which are not finite: {cause}; train or export it again"

    def forward_float(self, images: Tensor) -> Tensor:
        """Logits of the float network this one was quantized from.

        Raises:
            NetworkError: the file holds no float weights, or as `forward`.
        """
        if self.float_weights is None:
            raise NetworkError(f"network {self.name!r} came without float weights: no float accuracy to compare with")
        self.check_images(images)
        weights = self.float_weights

        def compute(layer: LayerSpec, x: Tensor) -> Tensor:
            weight, bias = weights[layer.name]
            if layer.kind == "linear":
                return F.linear(x, weight[:, :, 0, 0], bias)
            return F.conv2d(x, weight, bias, padding=layer.padding, **layer.geometry())

        return self._run(images.float(), compute)


def _steps(given: Sequence[Step | LayerSpec | SoftwareStep]) -> list[Step]:
    """The given steps, or a chain if operations are given."""
    steps = [step for step in given if isinstance(step, Step)]
    return steps if steps else chain(operation for operation in given if not isinstance(operation, Step))
