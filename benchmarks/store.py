"""The cost of a warm start: reads found by the store's index, compared with decks that are written and found by text.

    .venv/bin/python -m benchmarks.store

Readings are zeros, since no deck is simulated. Everything else is as in a run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cosim.arithmetic.patterns import pattern_bits
from cosim.config import Config
from cosim.currents import ReadRequest, SpiceSource
from cosim.currents.programming import program
from cosim.mapping import Group, gray_order
from cosim.netlist import Deck
from cosim.spice import Reading, Simulator, Store, read_keys

GROUPS = 640


class Instant(Simulator):
    """A simulator that returns zeros for every deck."""

    def _attempt(self, deck: Deck, *_: object) -> Reading:
        lines = len(deck.sources)
        currents, none = np.zeros((deck.reads, lines)), np.zeros(0)
        return Reading(currents, np.zeros(deck.reads), none, np.zeros((0, lines)), 0.0)


def requests(inputs: int, drives: Sequence[np.ndarray]) -> list[ReadRequest]:
    """The same reads of many groups with random levels. A tile of 256 x 64 cells has at most 28 groups."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(GROUPS):
        position = index % (256 // inputs)
        if position == 0:
            tile = rng.integers(8, 24, (256, 64)).astype(np.uint8)
        units = tile[position * inputs : (position + 1) * inputs]
        group = Group(0, position * inputs, index, (0, inputs), (0, 63), units, tile)
        found += [ReadRequest(group, drive) for drive in drives]
    return found


def warm(inputs: int, drives: Sequence[np.ndarray], folder: Path) -> tuple[int, float, float]:
    """The number of decks, and the seconds to find their results by the index and by writing decks."""
    config = Config.load(None, ["run.fidelity=dc", f"array.open_wordlines={inputs}"])
    simulator, asked = Instant(config.run, Store(folder)), requests(inputs, drives)
    cell = program(config, Simulator(config.run, Store(folder)))
    for _ in SpiceSource(config, cell, simulator).currents(asked, "filling"):
        pass
    simulator.usage.take()
    source = SpiceSource(config, cell, simulator)
    start = time.perf_counter()
    for _ in source.currents(asked, "index"):
        pass
    found = time.perf_counter()
    decks = simulator.usage.take().decks_reused
    per_deck = config.run.patterns_per_deck
    for request in asked:  # without the index
        for first in range(0, len(request.drive), per_deck):
            drive = request.drive[first : first + per_deck]
            simulator.simulate([source.deck(ReadRequest(request.group, drive))])
    assert simulator.usage.take().decks_reused == decks
    return decks, found - start, time.perf_counter() - found


def main() -> None:
    blocks = [pattern_bits(first + gray_order(256), 9) for first in (0, 256)]
    some = pattern_bits(np.random.default_rng(0).permutation(2**16)[:512], 16)
    some = some[np.argsort(read_keys(some))]  # as decks are cut
    for name, inputs, drives in (("blocks of 9 inputs", 9, blocks), ("512 reads of 16 inputs", 16, [some])):
        with tempfile.TemporaryDirectory() as folder:
            decks, by_index, by_text = warm(inputs, drives, Path(folder))
        print(f"{name}: {decks} decks, {1e3 * by_index / decks:.2f} ms per deck by the index, "
              f"{1e3 * by_text / decks:.2f} ms by its text, ratio {by_text / by_index:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
