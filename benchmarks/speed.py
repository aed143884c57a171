"""Measures the speed of cosim, as ratios within one run (docs/performance.md).

    .venv/bin/python benchmarks/speed.py [--data DIR] [--only NAME ...]

The parts are infer (10,000 images, cold and warm), brute (compared with simulating every read), deck (ngspice time per
cell and read, compared with plain decks) and tensors (tables applied to images, and deck writing). Every part uses an
empty store.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import cosim
from cosim.arithmetic.patterns import pattern_bits
from cosim.currents import SpiceSource
from cosim.currents.programming import program_cell
from cosim.device import load_card
from cosim.mapping import Group, gray_order
from cosim.netlist import ArrayDecks, Deck
from cosim.network import LayerSpec, integer_mvm
from cosim.spice import Simulator, Store

COSIM = [sys.executable, "-c", "from cosim.cli import main; main()"]
IMAGES = 10_000
BRUTE_IMAGES = (0, 1, 2)


@dataclass(frozen=True)
class Timed:
    """The wall time [s] and peak memory [bytes] of a process."""

    wall: float
    peak: int


def run_process(command: list[str], folder: Path) -> Timed:
    """Run a command in a folder, and measure its time and memory."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command} failed with {process.returncode}")
    return Timed(time.perf_counter() - started, usage.ru_maxrss * 1024)


def say(name: str, value: str, mark: str = "") -> None:
    """Print one line of the report."""
    print(f"  {name:<58}{value:>16}   {mark}")


def bench_infer(data: Path | None, folder: Path) -> float:
    """Run the whole test set cold and warm. Returns the cold run's ngspice CPU seconds."""
    print(f"infer mnist-w4a4 --images {IMAGES}, default settings")
    found = {}
    for name in ("cold", "warm"):
        out = folder / f"{name}.json"
        command = [*COSIM, "infer", "mnist-w4a4", "--images", str(IMAGES), "--json", str(out), "--store", "infer"]
        command += ["--out", f"{name}.h5"] + (["--data", str(data)] if data else [])
        found[name] = (run_process(command, folder), json.loads(out.read_text()))
    (cold, figures), (warm, again) = found["cold"], found["warm"]
    import h5py

    with h5py.File(folder / "cold.h5") as file:
        seconds = json.loads(file.attrs["provenance"])["seconds"]
    tensors = sum(seconds[stage] for stage in ("patterns", "tables", "software layers"))
    say("cold, wall", f"{cold.wall:.1f} s", "at most 60 s")
    say("  ngspice, CPU over all workers", f"{figures['ngspice_seconds']:.1f} s")
    say("  tensor work of the circuit", f"{tensors:.1f} s", "at most 10 s")
    say("  software networks to compare with", f"{seconds['software network']:.1f} s")
    say(
        "  deck writing, share of ngspice CPU",
        f"{100 * seconds['decks'] / figures['ngspice_seconds']:.2f} %",
        "under 2 %",
    )
    say("warm, wall", f"{warm.wall:.1f} s", "at most 10 s")
    say("peak memory, cold / warm", f"{cold.peak / 2**20:.0f} / {warm.peak / 2**20:.0f} MiB", "under 2 GB")
    say("accuracy float / software / circuit", " / ".join(
        f"{100 * figures[f'accuracy_{name}']:.2f}" for name in ("float", "software", "circuit")))  # fmt: skip
    say("images decided differently", str(figures["disagreements"]))
    say("audit, largest error", f"{figures['audit_max_error_lsb']:.1e} LSB")
    assert again["decks"] == 0, "a warm run must not simulate"
    return float(figures["ngspice_seconds"])


def activations_of(network: cosim.Network, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Integer activations of every layer."""
    caught: dict[str, torch.Tensor] = {}

    def mvm(layer: LayerSpec, activations: torch.Tensor) -> torch.Tensor:
        caught[layer.name] = activations
        return integer_mvm(layer, activations)

    with torch.no_grad():
        network(images, mvm)
    return caught


def bench_brute(data: Path | None, folder: Path, cold_seconds: float | None) -> None:
    """Simulate every read of a few images in their order, scale the time to all images, compare with the cold run."""
    print("brute force: every read of an image simulated, in the same kind of deck")
    network, test = cosim.load_network("mnist-w4a4"), cosim.load_dataset("mnist", "test", data)
    circuit = cosim.CircuitNetwork(network, cosim.Config(), store=folder / "brute")
    source = circuit.source
    assert isinstance(source, SpiceSource)
    circuit.take_usage()
    found = []
    for image in BRUTE_IMAGES:
        caught = activations_of(network, test.real(image, image + 1))
        requests = []
        for name, array in circuit.arrays.items():
            patterns = array.scheme.reads(array.plan, caught[name]).flip(-1)  # most significant bit first
            for index, group in enumerate(array.plan.groups):
                reads = patterns[0, :, :, group.stream].flatten().numpy()
                drive = array.scheme.drive(reads, group.inputs)
                requests += [array.reader.request(index, part) for part in np.array_split(drive, -(-len(drive) // 256))]
        read = sum(len(found.currents) for found in source.currents(requests, "brute force"))
        usage, _ = circuit.take_usage()
        found.append((read, usage.ngspice_seconds))
        say(f"image {image}: group reads, ngspice CPU", f"{found[-1][0]:,}, {found[-1][1]:.1f} s")
    if cold_seconds is None:
        circuit(test.real(0, 2000))
        cold_seconds = circuit.take_usage()[0].ngspice_seconds
    seconds = sum(second for _, second in found) / len(found)
    say(f"for {IMAGES} images, scaled", f"{seconds * IMAGES / 3600:.0f} h")
    say("ratio to the cold run's ngspice CPU", f"{seconds * IMAGES / cold_seconds:,.0f}", "expected above 3,000")


def bench_deck(folder: Path) -> None:
    """Simulate a deck of 9 x 33 cells and half of all patterns in several forms, on one thread."""
    print(
        "ngspice CPU time per cell and read, 9 x 33 cells, 256 patterns, one thread (best of 3; error to tight options)"
    )
    config = cosim.Config()
    card, simulator = load_card(config.cell.card), Simulator(config.run, Store(folder / "deck"))
    shifts = program_cell(card, config, simulator)
    units = np.random.default_rng(0).integers(0, 16, (9, 33)).astype(np.uint8)
    group = Group(0, 72, 0, (0, 9), (0, 32), units)
    order = gray_order(256)
    gray, binary = (pattern_bits(256 + patterns, 9) for patterns in (order, np.arange(256)))
    tran = ArrayDecks(card, shifts, config)
    settled = ArrayDecks(card, shifts, cosim.Config.load(None, ["run.fidelity=dc"]))
    resolved = tran.deck(group, gray, careful=True)
    plain = replace(tran.deck(group, binary, careful=True), options={})
    tight = replace(resolved, options={"method": "gear", "reltol": 1e-7, "trtol": 1, "abstol": 1e-15, "vntol": 1e-9})
    exact = simulator.simulate([tight], "reference")[0].currents
    in_binary_order = exact[np.argsort(order)]
    forms = {
        "plain, time step 1 ns (the rise time)": (
            replace(plain, command=f".tran 1n {plain.samples[-1]:.10g}"),
            in_binary_order,
        ),
        "plain, time step 20 ns (the pulse)": (plain, in_binary_order),
        "cosim, edges resolved (audits)": (resolved, exact),
        "cosim tran": (tran.deck(group, gray), exact),
        "cosim dc": (settled.deck(group, gray), exact),
    }
    best, errors = dict.fromkeys(forms, np.inf), dict.fromkeys(forms, 0.0)
    for _ in range(3):  # in turn, so that a slower phase of the machine affects all of them
        for name, (deck, expected) in forms.items():
            (reading,) = Simulator(config.run, Store(Path(tempfile.mkdtemp(dir=folder)))).simulate([deck], name)
            best[name] = min(best[name], reading.seconds)
            errors[name] = float(np.abs(reading.currents - expected).max() / config.cell.unit_a)
    for name, seconds in best.items():
        say(name, f"{1e6 * seconds / (units.size * len(gray)):.1f} us", f"{errors[name]:.1e} LSB")
    for name in list(forms)[:2]:
        say(f"ratio: {name} / cosim tran", f"{best[name] / best['cosim tran']:.1f}", "at least 1.5, aim 4")
    bench_threads(folder, [tran.deck(group, part, careful=True) for part in np.split(binary, 8)[:4]],
                  [tran.deck(group, part) for part in np.split(gray, 8)[:4]])  # fmt: skip


def bench_threads(folder: Path, plain: list[Deck], fast: list[Deck]) -> None:
    """Simulate decks of 32 reads on two workers: plain decks with ngspice's own threads, compared with cosim's."""
    walls = {}
    for name, decks in (("plain", plain), ("cosim", fast)):
        commands = []
        for deck in decks:
            place = Path(tempfile.mkdtemp(dir=folder))
            text = (
                deck.text() if name == "cosim" else replace(deck, options={}).text().replace("set num_threads=1\n", "")
            )
            (place / "deck.cir").write_text(text)
            for card, content in deck.cards.items():
                (place / card).write_text(content)
            commands.append(place)
        started = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda place: run_process(["ngspice", "-n", "-b", "deck.cir"], place), commands))
        walls[name] = time.perf_counter() - started
    say("four decks of 32 reads, two workers: plain, default threads", f"{walls['plain']:.2f} s")
    say("four decks of 32 reads, two workers: cosim tran", f"{walls['cosim']:.2f} s")
    say("ratio: plain, default threads / cosim tran", f"{walls['plain'] / walls['cosim']:.1f}", "at least 1.5, aim 4")


def bench_tensors(data: Path | None) -> None:
    """Apply tables to images when every pattern is known."""
    print("tables applied to images (ideal currents, same tensor work)")
    network, test = cosim.load_network("mnist-w4a4"), cosim.load_dataset("mnist", "test", data)
    circuit = cosim.CircuitNetwork(network, cosim.Config.load(None, ["run.fidelity=ideal"]))
    batches = [test.real(first, first + 250) for first in range(0, 5000, 250)]
    circuit(batches[0])
    started = time.perf_counter()
    for images in batches:
        circuit(images)
    say("whole network on tables", f"{5000 / (time.perf_counter() - started):,.0f} images/s", "at least 2,000")


def main() -> None:
    """Run the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the MNIST files")
    parser.add_argument("--only", nargs="+", choices=["infer", "brute", "deck", "tensors"])
    arguments = parser.parse_args()
    parts = arguments.only or ["infer", "brute", "deck", "tensors"]
    data = arguments.data.resolve() if arguments.data else None
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cold = bench_infer(data, folder) if "infer" in parts else None
        if "brute" in parts:
            bench_brute(data, folder, cold)
        if "deck" in parts:
            bench_deck(folder)
        if "tensors" in parts:
            bench_tensors(data)


if __name__ == "__main__":
    main()
