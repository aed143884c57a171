"""Compares the array solver with ngspice, in errors and times of the same reads, and with badcrossbar on crossbars.

    .venv/bin/python benchmarks/solver.py [--only errors many source-lines crossbar] [--store DIR]

Both sides of a ratio are CPU seconds on one thread, measured one after the other. For ngspice, they are those of its
processes; for the solver, they are the least of five repetitions, once the curves of the cell are known. If the store
holds the decks already, nothing is simulated and no ratio is printed.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import cosim
from cosim.arithmetic.codes import code_units
from cosim.arithmetic.patterns import pattern_bits
from cosim.cli.shared import use_threads
from cosim.config import Config
from cosim.currents import SolvedSource, SpiceSource
from cosim.netlist.deck import Deck
from cosim.netlist.drivers import swept_lines
from cosim.solver.crossbar import crossbar_currents
from cosim.spice import Simulator, Store

ERRORS = [["array.bitline_res_ohm=0.4"], ["array.bitline_res_ohm=5"], ["array.bitline_res_ohm=20"],
          *([f"corner.temperature_c={c}", f"corner.supply={v}"] for c in (-40, 125) for v in (0.9, 1.1))]  # fmt: skip


def least(work: Callable[[], object], repeats: int = 5) -> float:
    """Least CPU seconds of some repetitions."""
    found = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def compare(settings: list[str], store: Path, layers: tuple[str, ...], reads: int | None, groups: int | None) -> None:
    """Patterns of layers of mnist-w4a4, solved and in ngspice `dc`.

    Args:
        reads: number of reads, drawn with a quarter of the inputs open; None for every pattern.
        groups: number of groups of each layer, evenly spaced; None for all.
    """
    config = Config.load(None, ["run.fidelity=dc", *settings])
    circuit = cosim.CircuitNetwork(cosim.load_network("mnist-w4a4"), config, store=store)
    simulated = circuit.source
    assert isinstance(simulated, SpiceSource)
    assert simulated.cell is not None
    solved = SolvedSource(config, simulated.cell, simulated.simulator)
    rng, requests = np.random.default_rng(0), []
    for array in (circuit.arrays[layer] for layer in layers):
        chosen = np.unique(np.linspace(0, len(array.plan.groups) - 1, groups or len(array.plan.groups)).astype(int))
        for index in chosen.tolist():
            inputs = array.plan.groups[index].inputs
            every = pattern_bits(np.arange(2**inputs), inputs) if reads is None else None
            drive = (rng.random((reads or 0, inputs)) < 0.25).astype(np.int64) if every is None else every
            requests.append(array.reader.request(index, drive))
    simulated.usage.take()
    expected = [found.currents for found in simulated.currents(requests, "dc")]
    spent = simulated.usage.ngspice_seconds
    found = [found.currents for found in solved.currents(requests, "solved")]
    seconds = least(lambda: list(solved.currents(requests, "solved")))
    cells = sum(len(request.drive) * request.group.units.size for request in requests)
    lsb_a = config.cell.unit_a * code_units(config)[0]
    error = max(float(np.abs(one - other).max()) for one, other in zip(found, expected, strict=True)) / lsb_a
    each = f"{1e6 * seconds / cells:.4f} us per cell and read"
    beside = f"dc {1e6 * spent / cells:.2f} us, {spent / seconds:,.0f} times" if spent else "dc from the store"
    print(f"  {' '.join(settings):62s} {error:.1e} LSB  {each}  {beside}", flush=True)


def errors(store: Path) -> None:
    print("every pattern of mnist-w4a4, nine open wordlines")
    for settings in ERRORS:
        compare(settings, store, ("conv1", "conv2"), None, None)


def many(store: Path) -> None:
    print("sixty-four open wordlines, 256 reads")
    for ohm in (0.4, 2):
        compare(["array.open_wordlines=64", f"array.bitline_res_ohm={ohm}"], store, ("conv2",), 256, None)


def source_lines(store: Path) -> None:
    print("source lines of 5 ohm per cell, a strap every 16 cells, every pattern of two groups")
    compare(["array.source_res_ohm=5", "array.source_strap_cells=16"], store, ("conv2",), None, 2)


def crossbar_deck(siemens: np.ndarray, volts: np.ndarray, wire_ohm: float) -> Deck:
    """A crossbar for ngspice, whose `dc` analysis has a point for each vector; arguments as of `crossbar_currents`."""
    sensed, driven = siemens.shape
    lines, sources = [swept_lines(volts, 1.0)], tuple(f"vs{i}" for i in range(sensed))
    for j in range(driven):
        nodes = [f"w{j}", *(f"d{i}_{j}" for i in range(sensed))]
        lines += [f"rd{i}_{j} {nodes[i]} {nodes[i + 1]} {wire_ohm}" for i in range(sensed)]
    for i in range(sensed):
        nodes = [f"s{i}", *(f"s{i}_{j}" for j in range(driven))]
        lines += [f"vs{i} 0 s{i} 0", *(f"rs{i}_{j} {nodes[j]} {nodes[j + 1]} {wire_ohm}" for j in range(driven))]
        lines += [f"rc{i}_{j} d{i}_{j} s{i}_{j} {1 / siemens[i, j]:.17g}" for j in range(driven)]
    # A sweep has at least two points.
    return Deck(
        "dc", f".dc vread 0 {max(len(volts) - 1, 1)} 1", "\n".join(lines), {}, {}, sources, np.arange(len(volts))
    )


def crossbar(store: Path) -> None:
    """Random resistors of 1 to 100 uS, wires of 1 ohm per cell, 64 input vectors (2 in ngspice for the larger)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses pycairo, which its plots need
        import badcrossbar
    logging.disable(logging.INFO)
    print("resistive crossbars, 64 input vectors; ratios are of times per vector")
    simulator = Simulator(Config.load(None, ["run.timeout_s=7200"]).run, Store(store))
    for size, simulated in ((64, 64), (128, 2)):
        rng = np.random.default_rng(0)
        siemens, volts = rng.uniform(1e-6, 1e-4, (size, size)), 0.1 * rng.uniform(0, 1, (64, size))
        cells, inputs = torch.from_numpy(siemens), torch.from_numpy(volts)
        ours = least(lambda cells=cells, inputs=inputs: crossbar_currents(cells, inputs, 1.0), 20) / len(volts)
        currents = crossbar_currents(cells, inputs, 1.0).numpy()
        print(f"  {size} x {size}: {1e3 * ours * len(volts):.1f} ms", flush=True)

        def other(volts: np.ndarray = volts, siemens: np.ndarray = siemens) -> np.ndarray:
            """Currents from badcrossbar, which drives wordlines at one end and senses bitlines after the last one."""
            return badcrossbar.compute(volts.T[::-1], 1 / siemens.T[::-1], r_i=1).currents.output

        beside = {"badcrossbar": (other(), least(other, 3))}
        (reading,) = simulator.simulate([crossbar_deck(siemens, volts[:simulated], 1.0)])
        beside["ngspice"] = reading.currents, reading.seconds
        for name, (expected, seconds) in beside.items():
            count, error = len(expected), np.abs(currents[: len(expected)] / expected - 1).max()
            print(f"    {name}, {count} vectors: {seconds:.2f} s, {seconds / count / ours:,.0f} times, "
                  f"largest relative difference {error:.1e}", flush=True)  # fmt: skip


PARTS = {"errors": errors, "many": many, "source-lines": source_lines, "crossbar": crossbar}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--store", type=Path, help="store of simulation results; default: an empty one")
    given = parser.parse_args()
    use_threads(Config())
    with tempfile.TemporaryDirectory() as folder:
        for part in given.only:
            PARTS[part](given.store or Path(folder))


if __name__ == "__main__":
    main()
