"""The sense end of a bitline: the voltage at which it is held, and the current that is measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cosim.config import Config
from cosim.netlist import stage_deck
from cosim.spice import Simulator

# Number of points of a transistor stage's curves. Interpolation uses the four nearest points.
_POINTS = 1025


@dataclass(frozen=True, eq=False)
class Stage:
    """The stage that holds a bitline: an ideal source, perhaps behind a resistance, or transistors.

    Attributes:
        volts: voltage at which it holds the bitline if no current flows [V].
        ohm: resistance before an ideal source [ohm].
        held: (points,) voltage at which transistors hold a bitline that draws 0, step_a, 2 step_a, ... [V]; None for an
            ideal source.
        mirrored: (points,) current that transistors measure at these points [A]; None for an ideal source.
        step_a: step of the current between these points [A].
    """

    volts: float
    ohm: float = 0.0
    held: Tensor | None = None
    mirrored: Tensor | None = None
    step_a: float = 0.0

    @classmethod
    def of(cls, config: Config, most_a: float, simulator: Simulator) -> Stage:
        """The configured stage at the corner.

        Args:
            config: the configuration.
            most_a: the largest current that a bitline can draw [A].
            simulator: simulates the curves of a stage of transistors.
        """
        volts = config.read_at_corner.bitline_v
        if config.sense.stage != "transistor":
            return cls(volts, config.sense.clamp_ohm if config.sense.stage == "resistive" else 0.0)
        step_a = most_a / (_POINTS - 3)
        deck = stage_deck(config, step_a, _POINTS)
        mirrored, held = simulator.simulate([deck], "curves of the sense stage")[0].currents.T
        return cls(volts, 0.0, torch.from_numpy(np.ascontiguousarray(held)), torch.from_numpy(mirrored.copy()), step_a)

    def to(self, kind: torch.dtype, device: torch.device) -> Stage:
        """The same stage for tensors of the given dtype on the given device."""
        if self.held is None or self.mirrored is None:
            return self
        return Stage(self.volts, self.ohm, self.held.to(device, kind), self.mirrored.to(device, kind), self.step_a)

    def range_v(self) -> tuple[float, float]:
        """The lowest and the highest voltage at which the stage may hold a bitline whose wires have no drop [V]."""
        return (self.volts, self.volts) if self.held is None else (float(self.held.min()), float(self.held.max()))

    def held_v(self, y: Tensor) -> Tensor:
        """Voltage at which a bitline that draws the currents y [A] is held [V]."""
        return self.volts - self.ohm * y if self.held is None else _interpolated(self._held, y / self.step_a)[0]

    def tangent(self, y: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """The held voltage near the currents y [A]: its tangent's value if no current flows [V], and fall [ohm]."""
        if self.held is None:
            return self.volts, self.ohm
        held, slope = _interpolated(self._held, y / self.step_a)
        ohm = slope.div_(-self.step_a)
        return held.addcmul_(ohm, y), ohm

    def measured(self, y: Tensor) -> Tensor:
        """The currents that the stage measures if bitlines draw the currents y [A]."""
        return y if self.mirrored is None else _interpolated(self._mirrored, y / self.step_a)[0]

    @cached_property
    def _held(self) -> Tensor:
        assert self.held is not None
        return _cubics(self.held)

    @cached_property
    def _mirrored(self) -> Tensor:
        assert self.mirrored is not None
        return _cubics(self.mirrored)

    def meet(self, w: Tensor, y: Tensor, clamp_s: Tensor) -> Tensor:
        """The measured current where the curve of a bitline meets that of the stage.

        The voltages agree there. Interpolation over all points of the bitline's curve (Aitken and Neville) finds it.

        Args:
            w: (points, ..., bitlines) voltages on the bitline's curve, as distances below `volts` [V].
            y: (points, ..., bitlines) currents on the bitline's curve [A].
            clamp_s: (bitlines,) leakage at the stage [S].

        Returns:
            (..., bitlines) currents [A].
        """
        if self.held is None and self.ohm == 0:
            return _neville(-w, y) + clamp_s * self.volts
        y = torch.addcmul(y, clamp_s, self.volts - w)
        return self.measured(_neville(self.volts - w - self.held_v(y), y))


def _neville(apart: Tensor, y: Tensor) -> Tensor:
    """The value of y (points, ...) where `apart` is 0, by the polynomial through all points."""
    found = list(y)
    for order in range(1, len(y)):
        found = [
            torch.addcmul(found[i], found[i + 1] - found[i], apart[i] / (apart[i] - apart[i + order]))
            for i in range(len(y) - order)
        ]
    return found[0]


def _cubics(table: Tensor) -> Tensor:
    """Coefficients (4, points - 3) of the cubic through each four neighbours of a table, around the second of them."""
    first, second, third, fourth = table[:-3], table[1:-2], table[2:-1], table[3:]
    linear = third - second / 2 - first / 3 - fourth / 6
    return torch.stack([second, linear, (first + third) / 2 - second, (fourth - first) / 6 + (second - third) / 2])


def _interpolated(cubics: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """A table's values between its points, by a cubic polynomial through the four nearest points, and their slopes."""
    second = place.detach().floor().clamp_(1, cubics.shape[1])
    x, index = place - second, second.to(torch.int64).sub_(1)
    value, linear, square, cube = (coefficients[index] for coefficients in cubics)
    rising = torch.addcmul(square, cube, x)
    slope = torch.addcmul(rising, cube, x)
    rising = torch.addcmul(linear, rising, x)
    return torch.addcmul(value, rising, x), torch.addcmul(rising, slope, x)
