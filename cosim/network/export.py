"""From a float module to a module with quantizers, and from that to integers."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosim.errors import NetworkError
from cosim.network.layers import LayerSpec, Network, SoftwareStep
from cosim.network.quantizers import LearnedStepQuantizer, Quantizer


class QuantizedLayer(nn.Module):
    """A Conv2d or Linear whose input and weight pass through quantizers."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, weight_quantizer: Quantizer, input_quantizer: Quantizer) -> None:
        super().__init__()
        self.layer = layer
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_quantizer(four_axes(self.layer.weight)).reshape(self.layer.weight.shape)
        x = self.input_quantizer(x)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return F.conv2d(x, weight, self.layer.bias, **_geometry(self.layer))


def quantize_modules(float_net: nn.Sequential, weight_bits: int, activation_bits: int) -> nn.Sequential:
    """A copy of the network with learned-step quantizers around its convolutions and linear layers."""
    return nn.Sequential(
        *(
            QuantizedLayer(
                module,
                LearnedStepQuantizer(weight_bits, signed=True),
                LearnedStepQuantizer(activation_bits, signed=False),
            )
            if isinstance(module, nn.Conv2d | nn.Linear)
            else module
            for module in copy.deepcopy(float_net)
        )
    )


def export(name: str, input_shape: tuple[int, int, int], quantized: nn.Sequential, float_net: nn.Sequential) -> Network:
    """The integer network of a trained module, batch norm folded into output scale and bias.

    Args:
        quantized: what `quantize_modules` made of `float_net`, trained.
        float_net: the float network, kept as float weights.

    Raises:
        NetworkError: the module holds something an integer network cannot express.
    """
    steps: list[LayerSpec | SoftwareStep] = []
    float_weights: dict[str, tuple[Tensor, Tensor]] = {}
    previous: nn.Module | None = None
    for index, (module, twin) in enumerate(zip(quantized, float_net, strict=True)):
        if isinstance(module, QuantizedLayer):
            assert isinstance(twin, nn.Conv2d | nn.Linear)
            layer_name = f"{'linear' if isinstance(twin, nn.Linear) else 'conv'}{len(float_weights) + 1}"
            steps.append(layer_spec(layer_name, module, _norm_behind(quantized, index)))
            gain, offset = fold_norm(twin, _norm_behind(float_net, index))
            float_weights[layer_name] = (four_axes(twin.weight).detach() * gain[:, None, None, None], offset)
        elif isinstance(module, nn.BatchNorm2d):
            if not isinstance(previous, QuantizedLayer):
                raise NetworkError("batch norm must follow a convolution to be folded into it")
        else:
            steps.append(_software_step(module))
        previous = module
    return Network(name, input_shape, steps, float_weights=float_weights)


def layer_spec(name: str, module: QuantizedLayer, norm: nn.BatchNorm2d | None) -> LayerSpec:
    """The integers of a quantized layer, the batch norm behind it in scale and bias.

    An input whose zero is not the integer 0 adds zero_point * sum(weight) to every sum; that goes to the bias.
    """
    layer, weight, activation = module.layer, module.weight_quantizer, module.input_quantizer
    gain, offset = fold_norm(layer, norm)
    outputs = layer.weight.shape[0]
    integers = weight.integers(four_axes(layer.weight)).detach()
    input_step, input_zero_point = activation.positive_step().item(), int(activation.zero_point().item())
    scale = gain * weight.positive_step().detach().reshape(-1) * input_step
    return LayerSpec(
        name,
        "linear" if isinstance(layer, nn.Linear) else "conv2d",
        integers,
        weight_bits=weight.bits,
        zero_point=weight.zero_point().reshape(-1).expand(outputs).contiguous(),
        activation_bits=activation.bits,
        activation_scale=input_step,
        output_scale=scale,
        output_bias=offset - scale * input_zero_point * integers.sum(dim=(1, 2, 3)),
        input_zero_point=input_zero_point,
        **(_geometry(layer) if isinstance(layer, nn.Conv2d) else {}),
    )


def _software_step(module: nn.Module) -> SoftwareStep:
    match module:
        case nn.ReLU():
            return SoftwareStep("relu")
        case nn.MaxPool2d():
            return SoftwareStep("max_pool2d", {"kernel_size": module.kernel_size, "stride": module.stride})
        case nn.Flatten():
            return SoftwareStep("flatten")
    raise NetworkError(
        f"cannot export {module}: build the network from Conv2d, BatchNorm2d, ReLU, MaxPool2d, Flatten, Linear"
    )


def _norm_behind(modules: nn.Sequential, index: int) -> nn.BatchNorm2d | None:
    """The batch norm right behind a module, if there is one."""
    behind = modules[index + 1] if index + 1 < len(modules) else None
    return behind if isinstance(behind, nn.BatchNorm2d) else None


def fold_norm(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Per-output gain and offset of a layer's bias and of the batch norm behind it, on its running statistics."""
    outputs = layer.weight.shape[0]
    bias = layer.bias.detach().clone() if layer.bias is not None else torch.zeros(outputs)
    if norm is None:
        return torch.ones(outputs), bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
    return gain, (gain * (bias - norm.running_mean) + norm.bias).detach()


def _geometry(layer: nn.Conv2d) -> dict[str, Any]:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise NetworkError(f"cannot export {layer}: give padding as numbers, with zeros")
    return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}


def four_axes(weight: Tensor) -> Tensor:
    """A linear layer's weight as that of a 1x1 convolution; a convolution's as it is."""
    return weight if weight.ndim == 4 else weight[:, :, None, None]
