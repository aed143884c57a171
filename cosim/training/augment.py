"""Random distortion of training images, a batch at a time, on the device that holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How training images are distorted. The amounts are drawn at random for each image.

    Attributes:
        rotate_degrees: largest rotation, with interpolation.
        zoom: largest relative zoom, with interpolation.
        shift_pixels: largest shift, with interpolation.
        crop_pixels: number of zeros added on each side before an image is cropped at a random place.
        flip: whether to mirror half of the images left to right.
    """

    rotate_degrees: float = 0.0
    zoom: float = 0.0
    shift_pixels: float = 0.0
    crop_pixels: int = 0
    flip: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Distorted copies of float images (n, channels, height, width)."""
        if self.flip:
            mirrored = torch.rand(len(images), device=images.device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        if self.crop_pixels:
            images = self._crop(images)
        if self.rotate_degrees or self.zoom or self.shift_pixels:
            images = self._distort(images)
        return images

    def _crop(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        edge = self.crop_pixels
        down, right = torch.randint(0, 2 * edge + 1, (2, count, 1, 1, 1), device=images.device)
        rows = (down + torch.arange(height, device=images.device)[:, None]).expand(-1, channels, -1, width + 2 * edge)
        columns = (right + torch.arange(width, device=images.device)).expand(-1, channels, height, -1)
        return F.pad(images, (edge, edge, edge, edge)).gather(2, rows).gather(3, columns)

    def _distort(self, images: Tensor) -> Tensor:
        count, _, height, _ = images.shape
        shift = 2 * self.shift_pixels / height
        largest = torch.tensor([[math.radians(self.rotate_degrees)], [self.zoom], [shift], [shift]])
        angle, zoom, dx, dy = ((torch.rand(4, count) * 2 - 1) * largest).to(images.device)
        cos, sin = torch.cos(angle) * (1 + zoom), torch.sin(angle) * (1 + zoom)
        transform = torch.stack([torch.stack([cos, -sin, dx], 1), torch.stack([sin, cos, dy], 1)], 1)
        grid = F.affine_grid(transform, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)
