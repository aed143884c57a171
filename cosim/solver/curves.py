"""Curves of the cell for the solver: polynomials that are fitted to currents from ngspice.

The current of an open cell is a smooth function of three voltages: that of its drain, that of its source, and its
threshold shift. For each shift, the current is a polynomial in w, which is how far the voltage between drain and source
is below the bitline's voltage. If source lines have a resistance, it is a polynomial in the source's voltage s as well:

    I(w, s) = sum over d, m of c[d, m] * w^d * s^m

With amplitude reads, the drain of a cell whose input is at 0 V may be below its source. The cell then conducts
backwards. Drift velocity saturates in both directions, so that the second derivative of the current jumps between them.
Terms with u^2, u^3 and u^4 in place of w^d account for this, where u is how far the drain is below the source, or 0.

There are more points than coefficients, so that the residual of the fit shows whether the curve is smooth enough for
these terms. Levels are fitted at their own shifts. The cells of a chip, each of which has its own shift, use
coefficients that are interpolated between shifts 10 mV apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.config import Config
from cosim.device import Card
from cosim.errors import CardError
from cosim.netlist import curve_deck
from cosim.spice import Simulator

# Distance of threshold shifts between which coefficients are interpolated, and width of blocks simulated together [V].
GRID_V = 0.01
_BLOCK_V = 0.25
# Drains are simulated up to the bitline's voltage times this, since transistor stages may hold a bitline higher.
_DRAIN_BEYOND = 1.05
# Largest residual of a fit, in unit currents. The error of a read is the sum over its open cells.
_LARGEST_RESIDUE_UNITS = 2e-4
# The last simulated blocks of threshold shifts, which a process keeps, and how many.
_KEPT: dict[tuple[object, ...], tuple[np.ndarray, np.ndarray]] = {}
_MOST_KEPT = 256
# A source line may rise by this share of the bitline's voltage.
SOURCE_SHARE = 0.4
# Powers of the distance by which a drain is below its source.
BACKWARD_POWERS = (2, 3, 4)


@dataclass(frozen=True)
class Order:
    """How closely a cell's curve is followed.

    Attributes:
        drain: degree of the polynomials in w.
        source: degree of the polynomials in s.
        points: number of collocation points of a chain (`cosim.solver.chain`); None to choose it by the drop along the
            wire.
    """

    drain: int = 5
    source: int = 2
    points: int | None = None


@dataclass(frozen=True, eq=False)
class CellCurves:
    """Curves of open and closed cells by threshold shift.

    Attributes:
        shifts: (shifts,) threshold shifts [V], either rising in steps of GRID_V, or those of the levels.
        open: (drain terms, source degree + 1, shifts) coefficients for open cells [A, V]. Drain terms are the powers of
            w and then, with amplitude reads, BACKWARD_POWERS; the length of the second axis is 1 if sources are at 0 V.
        closed_s: (shifts,) conductance of a cell whose gate is at 0 V, its current at the bitline's voltage over that
            voltage [S].
    """

    shifts: np.ndarray
    open: np.ndarray
    closed_s: np.ndarray

    def of_units(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (..., *units.shape) and conductances (*units.shape) of cells, given their units."""
        return self.open[..., units], self.closed_s[units]

    def of_shifts(self, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients and conductances of cells, given their threshold shifts within the grid [V].

        They are found by Lagrange interpolation over four neighbours.
        """
        place = (shifts - self.shifts[0]) / GRID_V
        first = np.clip(np.floor(place).astype(int) - 1, 0, len(self.shifts) - 4)
        x = place - first
        weights = np.stack(
            [-(x - 1) * (x - 2) * (x - 3) / 6, x * (x - 2) * (x - 3) / 2, -x * (x - 1) * (x - 3) / 2,
             x * (x - 1) * (x - 2) / 6]
        )  # fmt: skip
        found = sum(weights[i] * self.open[..., first + i] for i in range(4))
        # Currents of closed cells change by decades, but their logarithm is smooth.
        logs = np.log(self.closed_s)
        return found, np.exp(sum(weights[i] * logs[first + i] for i in range(4)))


class CurveSource:
    """Simulates the curves of a card's cell at a corner. The simulator's store keeps them.

    Args:
        card: the cell's card.
        config: the configuration, for the read condition.
        level_shifts: (units,) threshold shift for each number of unit currents [V].
        simulator: the simulator.
        order: how closely curves are followed.
        sources: whether sources can be above 0 V.
        backwards: whether drains can then be below them.
    """

    def __init__(
        self,
        card: Card,
        config: Config,
        level_shifts: np.ndarray,
        simulator: Simulator,
        order: Order,
        *,
        sources: bool,
        backwards: bool,
    ) -> None:
        self._card, self._config, self._simulator, self._order = card, config, simulator, order
        self._level_shifts = level_shifts
        self._sources, self._backwards = sources, backwards
        self._grid: CellCurves | None = None
        read = (config.read_at_corner, config.cell, config.corner)
        self._condition = (
            card.at(config.corner.process).text(),
            *(section.model_dump_json() for section in read),
            simulator.engine,
            str(simulator.store.root),  # which holds all that its results rest on
            order,
            sources,
            backwards,
        )

    def levels(self) -> CellCurves:
        """Curves of the levels.

        Raises:
            CardError: the current is not smooth, or does not rise with the drain's voltage.
        """
        held = self._level_shifts[self._config.cell.offset_units :]
        return self._curves([self._level_shifts], float(held.min()), float(held.max()))

    def grid(self, lowest: float, highest: float) -> CellCurves:
        """Curves for all threshold shifts between two limits, and somewhat beyond [V]."""
        held = self._grid
        if held is None or lowest < held.shifts[2] or highest > held.shifts[-3]:
            per_block = round(_BLOCK_V / GRID_V)
            first, last = int(np.floor(lowest / _BLOCK_V - 0.1)), int(np.ceil(highest / _BLOCK_V + 0.1))
            blocks = [GRID_V * np.arange(per_block * block, per_block * (block + 1)) for block in range(first, last)]
            self._grid = held = self._curves(blocks, lowest - GRID_V, highest + GRID_V)  # with neighbours between them
        return held

    def _curves(self, blocks: list[np.ndarray], lowest: float, highest: float) -> CellCurves:
        """Curves of blocks of threshold shifts, checked between the lowest and the highest shift that is used."""
        volts = self._config.read_at_corner.bitline_v
        currents, closed = (np.concatenate(parts) for parts in zip(*self._simulated(blocks), strict=True))
        shifts = np.concatenate(blocks)
        used = (shifts >= lowest - 1e-9) & (shifts <= highest + 1e-9)
        self._check_rising(shifts[used], currents[used])
        return CellCurves(shifts, self._fitted(shifts, currents, used), np.maximum(closed, 1e-30) / volts)

    def _simulated(self, blocks: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each block, currents of open cells (shifts, points) and of closed cells (shifts,) [A].

        Chips of one design have the same curves, so the last blocks are kept.
        """
        keys = [(*self._condition, shifts.tobytes()) for shifts in blocks]
        missing = [number for number, key in enumerate(keys) if key not in _KEPT]
        volts = self._config.read_at_corner.bitline_v
        between, source = self._points()
        decks = []
        for number in missing:
            shifts = blocks[number]
            shift, drain_v, source_v = np.repeat(shifts, len(source)), between + source, source
            drain_v, source_v = (np.tile(values, len(shifts)) for values in (drain_v, source_v))
            sources = source_v if self._sources else None
            decks.append(curve_deck(self._card, shift, drain_v, self._config, source_v=sources))
            still = np.full(len(shifts), volts)
            decks.append(curve_deck(self._card, shifts, still, self._config, wordline_v=0.0))
        readings = self._simulator.simulate(decks, "curves of the cell") if decks else []
        found = dict(_KEPT)
        for number, opened, closed in zip(missing, readings[::2], readings[1::2], strict=True):
            currents = opened.currents[0].reshape(-1, len(source))
            found[keys[number]] = _KEPT[keys[number]] = currents, np.abs(closed.currents[0])
        while len(_KEPT) > _MOST_KEPT:
            del _KEPT[next(iter(_KEPT))]
        return [found[key] for key in keys]

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        """Voltages between drain and source, and of the source, at which the cell is simulated: (points,) each [V].

        Along either there are twice as many as there are coefficients. Those of the lowest source come first.
        """
        volts = self._config.read_at_corner.bitline_v
        between = _chebyshev(2 * (self._order.drain + 1)) * _DRAIN_BEYOND * volts
        if not self._sources:
            return between, np.zeros_like(between)
        sources = _chebyshev(2 * (self._order.source + 1)) * SOURCE_SHARE * volts
        found = [np.stack(np.broadcast_arrays(between, source)) for source in sources]
        if self._backwards:  # down to a drain at 0 V
            shares = _chebyshev(2 * len(BACKWARD_POWERS))
            found += [np.stack(np.broadcast_arrays(-source * shares, source)) for source in sources]
        return tuple(np.concatenate(found, axis=1))

    def _check_rising(self, shifts: np.ndarray, currents: np.ndarray) -> None:
        """Raise CardError if a current (shifts, points) falls while the drain's voltage rises."""
        rising = currents[:, : 2 * (self._order.drain + 1)]
        falling = np.diff(rising, axis=1).min(axis=1) / self._config.cell.unit_a
        worst = int(np.argmin(falling))
        if falling[worst] < -_LARGEST_RESIDUE_UNITS:
            raise CardError(
                f"the cell's current at a threshold shift of {shifts[worst]:.3g} V falls while its drain rises, "
                f'expected a current that rises up to the bitline voltage: run.fidelity = "solved" cannot follow it; '
                'choose "dc" or "tran", or correct the card'
            )

    def _fitted(self, shifts: np.ndarray, currents: np.ndarray, used: np.ndarray) -> np.ndarray:
        """Fit coefficients (drain terms, source degree + 1, shifts) to currents (shifts, points).

        Raises:
            CardError: the residual of the fit is too large at one of the shifts that are used.
        """
        between, source = self._points()
        w = self._config.read_at_corner.bitline_v - between
        drain = [w**power for power in range(self._order.drain + 1)]
        if self._backwards:
            drain += [np.maximum(-between, 0) ** power for power in BACKWARD_POWERS]
        by_source = [source**power for power in range(self._order.source + 1 if self._sources else 1)]
        terms = np.stack([one * other for one in drain for other in by_source], axis=1)
        scale = np.abs(terms).max(axis=0)
        coefficients = np.linalg.pinv(terms / scale) @ currents.T / scale[:, None]
        left = np.abs(terms @ coefficients - currents.T).max(axis=0)
        residue = np.where(used, left, 0) / self._config.cell.unit_a
        worst = int(np.argmax(residue))
        if residue[worst] > _LARGEST_RESIDUE_UNITS:
            raise CardError(
                f"the cell's current at a threshold shift of {shifts[worst]:.3g} V is off a polynomial of "
                f"degree {self._order.drain} by {residue[worst]:.2g} units, expected at "
                f'most {_LARGEST_RESIDUE_UNITS:g}; run.fidelity = "solved" needs smooth curves: choose "dc" or "tran"'
            )
        return coefficients.reshape(len(drain), len(by_source), len(shifts))


def _chebyshev(count: int) -> np.ndarray:
    """Chebyshev points in 0..1, rising, closer together at the ends."""
    return (1 - np.cos(np.pi * (np.arange(count) + 0.5) / count)) / 2
