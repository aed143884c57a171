"""The cell as the solver knows it: polynomials through currents that ngspice gives, nothing of BSIM4.

The current of an open cell is a smooth function of three voltages: of its drain, of its source, and its threshold
shift. At every shift it is a polynomial of w, how far the voltage between drain and source is below the bitline's, and,
where source lines have a resistance, of the source's voltage s as well:

    I(w, s) = sum over d, m of c[d, m] * w^d * s^m

The coefficients are fitted to more points than there are coefficients, and what the fit leaves shows whether the curve
is smooth enough for a polynomial. Levels are fitted at their own shifts. Cells of a chip, each with a shift of its own,
take coefficients interpolated between shifts 10 mV apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.config import Config
from cosim.device import Card
from cosim.errors import CardError
from cosim.netlist import curve_deck
from cosim.spice import Simulator

# The pitch of threshold shifts between which coefficients are interpolated, and of blocks they are simulated in [V].
GRID_V = 0.01
_BLOCK_V = 0.25
# Drains are simulated up to so much above the bitline's voltage, where transistor stages may hold a bitline.
_DRAIN_BEYOND = 1.05
# What a fit may leave, in unit currents: the error of a read is the sum over its open cells.
_LARGEST_RESIDUE_UNITS = 2e-4
# What was simulated of blocks of threshold shifts that a process keeps, and how many.
_KEPT: dict[tuple[object, ...], tuple[np.ndarray, np.ndarray]] = {}
_MOST_KEPT = 256
# A source line may rise by this share of the bitline's voltage.
SOURCE_SHARE = 0.4


@dataclass(frozen=True)
class Order:
    """How finely a cell's curve is followed.

    Attributes:
        drain, source: degrees of the polynomials.
        points: collocation points of a chain (`cosim.solver.chain`), None to choose them by the drop along the wire.
    """

    drain: int = 5
    source: int = 3
    points: int | None = None


@dataclass(frozen=True, eq=False)
class CellCurves:
    """Open and closed cells by threshold shift.

    Attributes:
        shifts: (shifts,) rising, GRID_V apart, or those of the levels [V].
        open: (drain degree + 1, source degree + 1, shifts) coefficients [A, V]; without source lines the second axis
            is 1 long.
        closed_s: (shifts,) what a cell with its gate at 0 V conducts at the bitline's voltage, over that voltage [S].
        levels: whether `shifts` are those of the levels, in their order.
    """

    shifts: np.ndarray
    open: np.ndarray
    closed_s: np.ndarray
    levels: bool

    def of_units(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (..., *units.shape) and conductances (*units.shape) of cells that hold so many units."""
        return self.open[..., units], self.closed_s[units]

    def of_shifts(self, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same of cells with any threshold shift on the grid [V]: Lagrange interpolation over four neighbours."""
        place = (shifts - self.shifts[0]) / GRID_V
        first = np.clip(np.floor(place).astype(int) - 1, 0, len(self.shifts) - 4)
        x = place - first
        weights = np.stack(
            [-(x - 1) * (x - 2) * (x - 3) / 6, x * (x - 2) * (x - 3) / 2, -x * (x - 1) * (x - 3) / 2,
             x * (x - 1) * (x - 2) / 6]
        )  # fmt: skip
        found = sum(weights[i] * self.open[..., first + i] for i in range(4))
        # Currents of closed cells change by decades: their logarithm is what is smooth.
        logs = np.log(self.closed_s)
        return found, np.exp(sum(weights[i] * logs[first + i] for i in range(4)))


class CurveSource:
    """Simulates the curves of a card's cell at a corner; what was simulated is in the simulator's store.

    Args:
        card, config: the cell, and the condition it is read at.
        level_shifts: (units,) threshold shift of each number of unit currents [V].
        simulator: which simulates.
        order: how finely curves are followed.
        sources: whether sources can be above 0 V.
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
    ) -> None:
        self._card, self._config, self._simulator, self._order = card, config, simulator, order
        self._level_shifts = level_shifts
        self._sources = sources
        self._grid: CellCurves | None = None
        read = (config.read_at_corner, config.cell, config.corner)
        self._condition = (
            card.at(config.corner.process).text(),
            *(section.model_dump_json() for section in read),
            simulator.engine,
            order,
            sources,
        )

    def levels(self) -> CellCurves:
        """Curves of the levels.

        Raises:
            CardError: the current is not smooth, or does not rise with the drain's voltage.
        """
        held = self._level_shifts[self._config.cell.offset_units :]
        return self._curves([self._level_shifts], float(held.min()), float(held.max()), levels=True)

    def grid(self, lowest: float, highest: float) -> CellCurves:
        """Curves between two threshold shifts, and somewhat beyond."""
        held = self._grid
        if held is None or lowest < held.shifts[2] or highest > held.shifts[-3]:
            per_block = round(_BLOCK_V / GRID_V)
            first, last = int(np.floor(lowest / _BLOCK_V - 0.1)), int(np.ceil(highest / _BLOCK_V + 0.1))
            blocks = [GRID_V * np.arange(per_block * block, per_block * (block + 1)) for block in range(first, last)]
            self._grid = held = self._curves(blocks, lowest, highest, levels=False)
        return held

    def _curves(self, blocks: list[np.ndarray], lowest: float, highest: float, *, levels: bool) -> CellCurves:
        """Curves of blocks of threshold shifts, smooth between the lowest and the highest that is used."""
        volts = self._config.read_at_corner.bitline_v
        drains, sources = self._points(volts)
        currents, closed = (np.concatenate(parts) for parts in zip(*self._simulated(blocks), strict=True))
        shifts = np.concatenate(blocks)
        used = (shifts >= lowest - 1e-9) & (shifts <= highest + 1e-9)
        self._check_rising(shifts[used], currents[used])
        fitted = self._fitted(shifts, currents, volts - drains, sources, used)
        return CellCurves(shifts, fitted, np.maximum(closed, 1e-30) / volts, levels)

    def _simulated(self, blocks: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Currents of open cells (shifts, drains, sources) and of closed ones (shifts,), by block [A].

        Chips of one design have the same curves: a process keeps the last blocks.
        """
        keys = [(*self._condition, shifts.tobytes()) for shifts in blocks]
        missing = [number for number, key in enumerate(keys) if key not in _KEPT]
        volts = self._config.read_at_corner.bitline_v
        drains, sources = self._points(volts)
        decks = []
        for number in missing:
            shifts = blocks[number]
            shift, drain, source = (axis.ravel() for axis in np.meshgrid(shifts, drains, sources, indexing="ij"))
            source_v = source if self._sources else None
            decks.append(curve_deck(self._card, shift, drain + source, self._config, source_v=source_v))
            still = np.full(len(shifts), volts)
            decks.append(curve_deck(self._card, shifts, still, self._config, wordline_v=0.0))
        readings = self._simulator.simulate(decks, "curves of the cell") if decks else []
        found = dict(_KEPT)
        for number, opened, closed in zip(missing, readings[::2], readings[1::2], strict=True):
            currents = opened.currents[0].reshape(-1, len(drains), len(sources))
            found[keys[number]] = _KEPT[keys[number]] = currents, np.abs(closed.currents[0])
        while len(_KEPT) > _MOST_KEPT:
            del _KEPT[next(iter(_KEPT))]
        return [found[key] for key in keys]

    def _points(self, volts: float) -> tuple[np.ndarray, np.ndarray]:
        """Voltages from source to drain, and of the source, at which the cell is simulated: twice as many as there are
        coefficients."""
        drains = _chebyshev(2 * (self._order.drain + 1)) * _DRAIN_BEYOND * volts
        if not self._sources:
            return drains, np.zeros(1)
        return drains, _chebyshev(2 * (self._order.source + 1)) * SOURCE_SHARE * volts

    def _check_rising(self, shifts: np.ndarray, currents: np.ndarray) -> None:
        """Raise CardError if a current (shifts, drains, sources) falls where the drain's voltage rises."""
        falling = np.diff(currents[:, :, 0], axis=1).min(axis=1) / self._config.cell.unit_a
        worst = int(np.argmin(falling))
        if falling[worst] < -_LARGEST_RESIDUE_UNITS:
            raise CardError(
                f"the cell's current at a threshold shift of {shifts[worst]:.3g} V falls while its drain rises, "
                f'expected a current that rises up to the bitline voltage: run.fidelity = "solved" cannot follow it; '
                'choose "dc" or "tran", or correct the card'
            )

    def _fitted(
        self, shifts: np.ndarray, currents: np.ndarray, w: np.ndarray, s: np.ndarray, used: np.ndarray
    ) -> np.ndarray:
        """Coefficients (degrees, degrees, shifts) of currents (shifts, drains, sources).

        Raises:
            CardError: what the fit leaves is too much at one of the shifts that are used.
        """
        drain = _basis(w, self._order.drain)
        source = _basis(s, self._order.source if self._sources else 0)
        coefficients = np.einsum("di,nij,mj->dmn", np.linalg.pinv(drain), currents, np.linalg.pinv(source))
        left = np.abs(np.einsum("id,jm,dmn->nij", drain, source, coefficients) - currents).max(axis=(1, 2))
        residue = np.where(used, left, 0) / self._config.cell.unit_a
        worst = int(np.argmax(residue))
        if residue[worst] > _LARGEST_RESIDUE_UNITS:
            raise CardError(
                f"the cell's current at a threshold shift of {shifts[worst]:.3g} V is off a polynomial of "
                f"degree {self._order.drain} by {residue[worst]:.2g} units, expected at "
                f'most {_LARGEST_RESIDUE_UNITS:g}; run.fidelity = "solved" needs smooth curves: choose "dc" or "tran"'
            )
        return coefficients


def _chebyshev(count: int) -> np.ndarray:
    """Points in 0..1, rising, close together at the ends."""
    return (1 - np.cos(np.pi * (np.arange(count) + 0.5) / count)) / 2


def _basis(points: np.ndarray, degree: int) -> np.ndarray:
    """(points, degree + 1) powers."""
    return points[:, None] ** np.arange(degree + 1)
