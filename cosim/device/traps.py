"""Traps: defects in the oxide of cells that capture and emit single electrons, which is random telegraph noise.

Traps lie independently of each other, so their number in a cell follows Poisson's distribution. A filled trap raises
the threshold of its cell. Each trap is a Markov chain in continuous time with two states: it remembers what it was a
time t ago with the probability exp(-t / time_s), and if it does not, it is filled with the probability `occupancy`.
Traps whose time constants are spread evenly over decades together have a 1/f spectrum.

Source: exponential amplitudes as in Compagnoni et al., "Random telegraph noise effect on the programmed
threshold-voltage distribution of flash memories", EDL 2009, and Ghetti et al., "Comprehensive analysis of random
telegraph noise instability and its scaling in deca-nanometer flash memories", TED 2009; time constants as in McWhorter,
"1/f noise and germanium surface properties", 1957; states and occupancy as in Kirton and Uren, "Noise in solid-state
microstructures", Advances in Physics, 1989.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.config import Config
from cosim.device.draws import chip_generator
from cosim.mapping import Group

# Energies of active traps are spread evenly up to this far from the Fermi level [kT]. Others hardly ever switch.
_REACH_KT = 3.0


@dataclass(frozen=True, eq=False)
class Traps:
    """The traps in the cells of a group, cell by cell in the order of bitlines, then wordlines.

    Attributes:
        wordlines: (traps,) wordline of the cell, counted from the group's first.
        bitlines: (traps,) bitline of the cell.
        shift_v: (traps,) by how much the threshold of the cell is higher while the trap is filled [V].
        time_s: (traps,) time after which the trap remembers its state with the probability 1 / e [s]. One over this
            time is the sum of the rates of capture and emission.
        occupancy: (traps,) share of the time for which the trap is filled, 0..1.
    """

    wordlines: np.ndarray
    bitlines: np.ndarray
    shift_v: np.ndarray
    time_s: np.ndarray
    occupancy: np.ndarray


def draw_traps(config: Config, layer: int, group: Group) -> Traps:
    """Draw the traps of a group's cells. They belong to the chip: a cell keeps its traps however it is read.

    Args:
        config: the configuration, for its variation, seed and chip.
        layer: number of the layer in its network.
        group: the group.
    """
    variation, (wordlines, bitlines) = config.variation, group.units.shape
    counts, numbers = [], []
    for row in range(group.first_input, group.first_input + wordlines):
        place = layer, group.tile, row
        found = np.array(chip_generator(config, "traps", *place).poisson(variation.telegraph_traps, size=(bitlines,)))
        counts.append(found)
        numbers.append(chip_generator(config, "kinds of traps", *place).random((found.sum(), 3)))
    rows, columns = np.divmod(np.repeat(np.arange(wordlines * bitlines), np.concatenate(counts)), bitlines)
    order = np.lexsort((rows, columns))
    amplitude, place_in_decades, energy = np.concatenate(numbers)[order].T
    fastest, slowest = np.log(variation.telegraph_fastest_s), np.log(variation.telegraph_slowest_s)
    return Traps(
        wordlines=rows[order],
        bitlines=columns[order],
        shift_v=-variation.telegraph_shift_v * np.log1p(-amplitude),
        time_s=np.exp(fastest + (slowest - fastest) * place_in_decades),
        occupancy=1 / (1 + np.exp(_REACH_KT * (2 * energy - 1))),
    )
