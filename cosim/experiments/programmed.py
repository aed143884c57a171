"""Programs some cells to each level as the configuration says, and measures what they hold and conduct."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cosim.config import Config
from cosim.currents.programming import cell_curves, kept_population, program
from cosim.device import Population
from cosim.errors import ConfigError
from cosim.mapping import Group
from cosim.spice import Simulator


@dataclass(frozen=True, eq=False)
class ProgrammedCells:
    """Cells of the configured chip, one column for each level.

    Attributes:
        config: the configuration.
        targets_v: (levels,) threshold shift that each level stands for [V].
        verified_v: (cells, levels) threshold shifts as verified [V].
        verified_a: (cells, levels) their currents at the condition of verify [A].
        read_a: (cells, levels) their currents at the configured corner, after the configured time [A].
        design_a: (levels,) currents at the corner of cells without any error, just programmed [A].
        population: the cells that pulses programmed; None without pulses.
    """

    config: Config
    targets_v: np.ndarray
    verified_v: np.ndarray
    verified_a: np.ndarray
    read_a: np.ndarray
    design_a: np.ndarray
    population: Population | None

    @property
    def verified_error_units(self) -> np.ndarray:
        """(cells, levels) error of the verified currents [unit currents]."""
        cell = self.config.cell
        return self.verified_a / cell.unit_a - (cell.offset_units + np.arange(cell.levels))

    @property
    def read_change_units(self) -> np.ndarray:
        """(cells, levels) how much more a cell conducts at the corner than one without any error [unit currents]."""
        return (self.read_a - self.design_a) / self.config.cell.unit_a

    @property
    def sigma_v(self) -> float:
        """Root mean square over the levels of the standard deviation of a level's verified thresholds [V]."""
        return float(np.sqrt(self.verified_v.var(axis=0).mean()))

    @property
    def sigma_units(self) -> float:
        """The same of verified currents [unit currents]."""
        return float(np.sqrt(self.verified_error_units.var(axis=0).mean()))

    @property
    def cell_s(self) -> np.ndarray | None:
        """(levels,) mean time of pulses and verifies of a cell [s], or None without pulses."""
        if self.population is None:
            return None
        return self._cycle_s * self.population.pulses.mean(axis=1)

    @property
    def wordline_s(self) -> float | None:
        """Mean time until the last cell of a wordline is done, if levels are equally frequent [s]; None without pulses.

        The cells of a wordline share its pulses.
        """
        if self.population is None:
            return None
        bitlines, pulses = self.config.array.bitlines, self.population.pulses.ravel()
        wordlines = np.random.default_rng(0).permutation(pulses)[: pulses.size // bitlines * bitlines]
        return self._cycle_s * float(wordlines.reshape(-1, bitlines).max(axis=1).mean())

    @property
    def in_band(self) -> np.ndarray | None:
        """(levels,) share of the cells whose current lies within the band of verify, or None without pulses."""
        if self.population is None:
            return None
        return (np.abs(self.verified_error_units) <= self.config.programming.band_units).mean(axis=0)

    @property
    def _cycle_s(self) -> float:
        return self.config.programming.pulse_s + self.config.programming.verify_s

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        errors, changes = self.verified_error_units, self.read_change_units
        levels: list[dict[str, Any]] = [
            {
                "level": level,
                "target_shift_v": float(self.targets_v[level]),
                "shift_v": float(self.verified_v[:, level].mean()),
                "shift_sigma_v": float(self.verified_v[:, level].std()),
                "error_units": float(errors[:, level].mean()),
                "error_sigma_units": float(errors[:, level].std()),
                "read_change_units": float(changes[:, level].mean()),
                "read_change_sigma_units": float(changes[:, level].std()),
            }
            for level in range(len(self.targets_v))
        ]
        figures: dict[str, Any] = {
            "config": self.config.to_record(),
            "cells": len(self.verified_v),
            "sigma_v": self.sigma_v,
            "sigma_units": self.sigma_units,
            "levels": levels,
        }
        population, cell_s, in_band = self.population, self.cell_s, self.in_band
        if population is not None and cell_s is not None and in_band is not None:
            for level, each in enumerate(levels):
                each |= {
                    "pulses": float(population.pulses[level].mean()),
                    "most_pulses": int(population.pulses[level].max()),
                    "cell_s": float(cell_s[level]),
                    "in_band": float(in_band[level]),
                }
            figures["wordline_s"] = self.wordline_s
        return figures


def program_cells(config: Config, simulator: Simulator, cells: int = 1000) -> ProgrammedCells:
    """Program cells of the configured chip to each level.

    Args:
        config: the configuration.
        simulator: simulates the card's cell.
        cells: number of cells of each level.

    Raises:
        ConfigError: no cell differs from its level, or levels cannot be told apart.
        CardError: the card does not describe a cell, or the cell cannot hold the levels.
    """
    programmed, levels = program(config, simulator), np.arange(config.cell.levels)
    variation = programmed.variation
    if variation is None:
        raise ConfigError(
            'every cell is exactly at its level: set programming.method = "pulses", variation.program_sigma_v or '
            "another key of variation that moves thresholds"
        )
    units = np.broadcast_to((levels + config.cell.offset_units).astype(np.uint8), (cells, len(levels)))
    group = Group(0, 0, 0, (0, cells), (0, len(levels) - 1), np.ascontiguousarray(units))
    curves = cell_curves(programmed.card, config, simulator)
    targets_v = programmed.shifts[config.cell.offset_units :]
    verified_v = variation.programming.verified(0, group)
    population = None
    if config.programming.method == "pulses":
        population = kept_population(config, programmed.shifts, curves.verify, simulator)
    return ProgrammedCells(
        config,
        targets_v,
        verified_v,
        curves.verify.currents(verified_v),
        curves.read.currents(variation.cell_shifts(0, group)),
        curves.read.currents(targets_v),
        population,
    )
