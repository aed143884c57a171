"""The integer matrix-vector product from its definition, which shares no code with the one that networks use."""

from __future__ import annotations

import numpy as np

from cosim.network import LayerSpec


def exact_mvm(layer: LayerSpec, activations: np.ndarray) -> np.ndarray:
    """Integer sums of a layer in int64, from a loop over all positions of the kernel.

    Args:
        activations: (n, inputs, height, width) integers, padded.

    Returns:
        (n, outputs, out height, out width) int64.
    """
    weight = layer.weight.numpy().astype(np.int64)
    outputs, per_conv, kernel_h, kernel_w = weight.shape
    (stride_h, stride_w), (dil_h, dil_w) = layer.stride, layer.dilation
    padded = activations.astype(np.int64)
    out_h = (padded.shape[2] - dil_h * (kernel_h - 1) - 1) // stride_h + 1
    out_w = (padded.shape[3] - dil_w * (kernel_w - 1) - 1) // stride_w + 1
    sums = np.zeros((len(activations), outputs, out_h, out_w), np.int64)
    per_group = outputs // layer.groups
    for output in range(outputs):
        first = output // per_group * per_conv
        for y in range(out_h):
            for x in range(out_w):
                top, left = y * stride_h, x * stride_w
                patch = padded[
                    :,
                    first : first + per_conv,
                    top : top + dil_h * (kernel_h - 1) + 1 : dil_h,
                    left : left + dil_w * (kernel_w - 1) + 1 : dil_w,
                ]
                sums[:, output, y, x] = (patch * weight[output]).sum(axis=(1, 2, 3))
    return sums
