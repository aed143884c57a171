"""Sense stages, pulse widths and amplitudes: the tables of docs/reading.md.

    .venv/bin/python -m benchmarks.reading

Random numbers have fixed seeds. CPU seconds of ngspice are those of single runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cosim.config import Config
from cosim.mapping import gray_order
from cosim.readout import ideal_sums
from cosim.spice import Simulator, Store
from tests.physics.arrays import decks_for, drive_of, group_of, nested_currents, random_group, read, stage_response

UNIT_A = Config().cell.unit_a
LOADS = np.linspace(0, 135 * UNIT_A, 28)
CORNERS = [("tt", 27, 1.0), *((process, c, supply) for c, supply in ((-40, 0.9), (125, 1.1))
                              for process in ("ss", "ff", "fs", "sf"))]  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        simulator = Simulator(Config().run, Store(Path(folder)))
        for title, table in (("Stage", stage), ("Array", array), ("Pulses", pulses), ("Amplitudes", amplitudes),
                             ("Linearity", linearity)):  # fmt: skip
            print(f"\n{title}")
            for row in table(simulator):
                print("| " + " | ".join(row) + " |", flush=True)


def stage(simulator: Simulator) -> Iterator[tuple[str, ...]]:
    """Rows of: corner; impedance at 2.5, 27.5 and 132.5 units [ohm]; error of the bitline's voltage at the smallest and
    the largest load [mV]; measured current at the smallest load, and its error at the largest [units]; largest
    deviation from the best straight line [units]."""
    for process, celsius, supply in CORNERS:
        corner = [f"corner.process={process}", f"corner.temperature_c={celsius}", f"corner.supply={supply}"]
        measured, volts = stage_response(["sense.stage=transistor", *corner], LOADS, simulator)
        ohm = -np.diff(volts) / np.diff(LOADS)
        error = 1e3 * (volts - Config().read.bitline_v * supply)
        bent = measured - np.polyval(np.polyfit(LOADS, measured, 1), LOADS)
        yield (
            f"{process}, {celsius} °C, {supply}",
            " / ".join(f"{ohm[index]:.0f}" for index in (0, 5, -1)),
            f"{error[0]:.1f} / {error[-1]:.1f}",
            f"{measured[0] / UNIT_A:+.2f}",
            f"{(measured[-1] - LOADS[-1]) / UNIT_A:+.2f}",
            f"{np.abs(bent).max() / UNIT_A:.2f}",
        )


def array(simulator: Simulator) -> Iterator[tuple[str, ...]]:
    """Rows of: stage; largest settled error, the same after a fit of gain and offset, movement in half a pulse [LSB];
    CPU seconds."""
    group = random_group(126, 9, 33)
    drive = drive_of(group, gray_order(256) << 1)
    sums = ideal_sums(group, drive)
    for settings in (["clamp"], ["resistive", "sense.clamp_ohm=50"], ["resistive"], ["transistor"]):
        given = [f"sense.stage={settings[0]}", *settings[1:]]
        settled = read(simulator, decks_for([*given, "run.fidelity=dc"], simulator).deck(group, drive)) / UNIT_A
        (reading,) = simulator.simulate([decks_for(given, simulator).deck(group, drive)])
        line = np.polyval(np.polyfit(sums.ravel(), settled.ravel(), 1), sums)
        yield (
            " ".join(settings),
            f"{np.abs(settled - sums).max():.2f}",
            f"{np.abs(settled - line).max():.2f}",
            f"{reading.unsettled.max() / UNIT_A:.2g}",
            f"{reading.seconds:.2f}",
        )


def pulses(simulator: Simulator) -> Iterator[tuple[str, ...]]:
    """Rows of: pulse and rise time; stage; charge lost per open cell, in rise times of its current; largest error in
    percent of full scale."""
    group = random_group(126, 9, 9)
    for pulse_s, rise_s in ((20e-9, 1e-9), (20e-9, 0.2e-9), (100e-9, 1e-9)):
        for stage in ("clamp", "transistor"):
            settings = [f"read.pulse_s={pulse_s}", f"read.rise_s={rise_s}", f"sense.stage={stage}"]
            lost, error = [], []
            for seed in range(4):
                activations = np.random.default_rng(seed).integers(0, 8, 9)
                drive = np.array([activations > pulse for pulse in range(7)] + [np.zeros(9)], float)
                deck = decks_for(settings, simulator).deck(group, drive, careful=True)
                (reading,) = simulator.simulate([deck])
                settled = read(simulator, decks_for([*settings, "run.fidelity=dc"], simulator).deck(group, drive))
                charge = np.trapezoid(reading.wave_currents - settled[-1], reading.wave_time, axis=0)
                missing = pulse_s * (settled - settled[-1]).sum(axis=0) - charge
                lost += (missing / (rise_s * (settled[0] - settled[-1]))).tolist()
                error.append(np.abs(missing).max() / (7 * pulse_s * 135 * UNIT_A))
            yield (
                f"{1e9 * pulse_s:g} ns, {1e9 * rise_s:g} ns",
                stage,
                f"{min(lost):.2f} to {max(lost):.2f}",
                f"{100 * max(error):.2f}",
            )


def amplitudes(simulator: Simulator) -> Iterator[tuple[str, ...]]:
    """Rows of: offset and settings; largest error of a source line, and of its difference from the reference; gain, and
    the latter error after its correction; error of nested patterns in a mixed read. Errors are in unit currents at full
    amplitude."""
    mixed = np.random.default_rng(2).integers(0, 16, (64, 9)) / 15
    for offset in (0, 8):
        tile = np.random.default_rng(3).integers(offset, 16 + offset, (64, 33)).astype(np.uint8)
        tile[:, -1] = 8 + offset  # the reference
        group = group_of(tile, 18, 9)
        for settings in ([], ["read.bitline_v=0.05", "cell.full_scale_a=3e-6"], ["array.source_res_ohm=5"],
                         ["array.source_res_ohm=5", "array.source_strap_cells=64"],
                         ["sense.stage=resistive", "sense.clamp_ohm=10"], ["sense.stage=resistive"]):  # fmt: skip
            given = ["read.mode=amplitude", "array.source_line_wordlines=1", f"cell.offset_units={offset}", *settings]
            decks = decks_for([*given, "run.fidelity=dc"], simulator)
            unit_a = decks.config.cell.unit_a
            direct, sums = read(simulator, decks.deck(group, mixed)) / unit_a, ideal_sums(group, mixed)
            missed = nested_currents(decks, group, mixed, simulator) / unit_a - direct
            products, ideal = (values - values[:, -1:] for values in (direct, sums))
            gain = (products * ideal).sum() / (ideal**2).sum()
            yield (
                f"{offset}",
                " ".join(settings),
                f"{np.abs(direct - sums).max():.2f}",
                f"{np.abs(products - ideal).max():.2f}",
                f"{gain:.4f}",
                f"{np.abs(products - gain * ideal).max():.2f}",
                f"{np.abs(missed).max():.1g}",
            )


def linearity(simulator: Simulator) -> Iterator[tuple[str, ...]]:
    """Rows of: offset; largest deviation of a level from the line through its full amplitude, alone and after level 8
    is subtracted [units]; excess of the lowest amplitude for levels 0 and 15 after level 8 is subtracted [%]."""
    for offset in (0, 8):
        held = np.pad(np.arange(16, dtype=np.uint8)[None] + np.uint8(offset), ((0, 63), (0, 0)))
        given = ["read.mode=amplitude", "array.source_line_wordlines=1", f"cell.offset_units={offset}"]
        decks = decks_for([*given, "array.bitline_res_ohm=0", "run.fidelity=dc"], simulator)
        shares = np.arange(1, 16)[:, None] / 15
        units = read(simulator, decks.deck(group_of(held, 0, 1), shares)) / decks.config.cell.unit_a
        products = units - units[:, 8:9]
        bent = [np.abs(values - shares * values[-1]).max() for values in (units, products)]
        excess = [100 * (15 * products[0, level] / products[-1, level] - 1) for level in (0, 15)]
        yield (f"{offset}", *(f"{value:.2f}" for value in bent), *(f"{value:.1f}" for value in excess))


if __name__ == "__main__":
    main()
