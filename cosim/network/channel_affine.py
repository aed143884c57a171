"""A gain and an offset for each channel that belong to no layer: input normalization, or batch norm on its own."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelAffine(nn.Module):
    """y = gain x + offset with fixed numbers, of shape (1,) for all channels or (channels,) for each channel."""

    def __init__(self, gain: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.gain: Tensor
        self.offset: Tensor
        self.register_buffer("gain", gain)
        self.register_buffer("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        return channel_affine(x, self.gain, self.offset)


def channel_affine(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """gain x + offset for x (n, channels, ...)."""
    shape = (-1, *(1 for _ in x.shape[2:]))
    return x * gain.reshape(shape) + offset.reshape(shape)
