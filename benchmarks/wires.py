"""Arrays with every wire: the tables of docs/array.md.

    .venv/bin/python -m benchmarks.wires

Seeded; ngspice's CPU seconds are of single runs. It takes some minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cosim.config import Config
from cosim.mapping import gray_order
from cosim.netlist import Deck
from cosim.readout import ideal_sums
from cosim.reference import solve_group
from cosim.spice import Reading, Simulator, Store
from tests.physics.arrays import CARD, cell_curve, decks_for, drive_of, group_of
from tests.physics.test_wires import CLOSED, EVERY_WIRE

# Each wire alone, in a tile whose bitlines have no resistance but in their own rows.
ALONE = {
    "bitline 0.4 ohm": ["array.bitline_res_ohm=0.4"],
    "bitline 5 ohm": ["array.bitline_res_ohm=5"],
    "source line 5 ohm, strap every 16": ["array.source_res_ohm=5"],
    "source line 50 ohm, strap every 16": ["array.source_res_ohm=50"],
    "source line 5 ohm, strap every 64": ["array.source_res_ohm=5", "array.source_strap_cells=64"],
    "wordline 20 ohm, 0.2 fF": ["array.wordline_res_ohm=20", "array.wordline_cap_f=0.2e-15"],
    "wordline 5 kohm, 0.2 fF": ["array.wordline_res_ohm=5e3", "array.wordline_cap_f=0.2e-15"],
    "coupling 0.1 fF (bitline 5 ohm)": ["array.bitline_res_ohm=5", "array.coupling_cap_f=0.1e-15"],
    "every wire": EVERY_WIRE,
}
PATTERNS = gray_order(64) << 3


def random_tile(wordlines: int, bitlines: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 16, (wordlines, bitlines)).astype(np.uint8)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        simulator = Simulator(Config().run, Store(Path(folder)))
        for title, table in (("Wires", wires), ("Closed wordlines", closed), ("Nodal", nodal), ("Refined", refined)):
            print(f"\n{title}")
            for row in table(simulator):
                print("| " + " | ".join(row) + " |", flush=True)


def one(simulator: Simulator, deck: Deck) -> Reading:
    return simulator.simulate([deck])[0]


def wires(simulator: Simulator) -> Iterator[tuple[str, ...]]:
    """Wire; largest error against the ideal sum [LSB]; movement over half a pulse [LSB]; CPU seconds."""
    group = group_of(random_tile(256, 33), 126, 9)
    for name, settings in ALONE.items():
        alone = settings if "bitline" in name or name == "every wire" else ["array.bitline_res_ohm=0", *settings]
        decks = decks_for(alone, simulator)
        reading = one(simulator, decks.deck(group, drive_of(group, PATTERNS)))
        lsb = reading.currents / decks.config.cell.unit_a
        error = np.abs(lsb - ideal_sums(group, drive_of(group, PATTERNS))).max()
        moved = reading.unsettled.max() / decks.config.cell.unit_a
        yield name, f"{error:.2g}", f"{moved:.1g}", f"{reading.seconds:.2f}"


def closed(simulator: Simulator) -> Iterator[tuple[str, ...]]:
    """Case; error of lumped and of omitted cells against a deck of all [LSB]; CPU seconds of all three."""
    tile = random_tile(48, 9)
    tile[:, 1] = 15
    for case, settings in CLOSED.items():
        found, seconds = {}, []
        for way in ("cells", "lumped", "omitted"):
            decks = decks_for([*settings, "array.wordlines=48", f"array.closed_wordlines={way}"], simulator)
            group = group_of(tile, 27, 9)
            reading = one(simulator, decks.deck(group, drive_of(group, PATTERNS)))
            found[way] = reading.currents / decks.config.cell.unit_a
            seconds.append(f"{reading.seconds:.2f}")
        errors = (f"{np.abs(found[way] - found['cells']).max():.1e}" for way in ("lumped", "omitted"))
        yield case, *errors, *seconds


def nodal(simulator: Simulator) -> Iterator[tuple[str, ...]]:
    """Tile and open wordlines; fidelity; largest difference [% of full scale]; CPU seconds."""
    for wordlines, bitlines, first, opened in ((32, 16, 0, 32), (128, 32, 40, 48)):
        patterns = np.append(2**opened - 1, np.random.default_rng(4).integers(0, 2**opened, 5))
        group = group_of(random_tile(wordlines, bitlines), first, opened)
        shape = [f"array.wordlines={wordlines}", f"array.bitlines={bitlines}", "array.closed_wordlines=cells"]
        for fidelity in ("dc", "tran"):
            decks = decks_for([*EVERY_WIRE, *shape, f"run.fidelity={fidelity}"], simulator)
            config = decks.config
            curve = cell_curve(CARD, decks.shifts, config, simulator)
            solved = solve_group(group, patterns, config.array, config.read.bitline_v, curve)
            reading = one(simulator, decks.deck(group, drive_of(group, patterns)))
            error = np.abs(reading.currents - solved).max() / (opened * config.cell.full_scale_a)
            yield f"{wordlines} x {bitlines}, {opened} open", fidelity, f"{100 * error:.1e}", f"{reading.seconds:.1f}"


def refined(simulator: Simulator) -> Iterator[tuple[str, ...]]:
    """Wires; deck; its largest difference [LSB] from decks of a tenth of the step, of the tolerances, of both."""
    group = group_of(random_tile(256, 33), 126, 9)
    for name, settings in (("default", []), ("5 ohm", ["array.bitline_res_ohm=5"]), ("every wire", EVERY_WIRE)):
        decks = decks_for(settings, simulator)
        for kind, careful in (("tables", False), ("audit", True)):
            deck = decks.deck(group, drive_of(group, PATTERNS), careful=careful)
            step, stop = decks.config.read.pulse_s / 10, deck.samples[-1]
            fine_step = f".tran {step:.10g} {stop:.10g} 0 {step:.10g}"
            tolerances = {"reltol": 1e-5 if careful else 1e-4, "abstol": 1e-13, "vntol": 1e-7, "chgtol": 1e-15}
            fine = {"method": "gear", "bypass": 0, **tolerances}
            finer = (
                replace(deck, command=fine_step),
                replace(deck, options=fine),
                replace(deck, command=fine_step, options=fine),
            )
            lsb = [one(simulator, one_of).currents / decks.config.cell.unit_a for one_of in (deck, *finer)]
            yield name, kind, *(f"{np.abs(lsb[0] - other).max():.1e}" for other in lsb[1:])


if __name__ == "__main__":
    main()
