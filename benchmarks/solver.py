"""The array solver beside ngspice: errors and times of the same reads, and resistive crossbars beside badcrossbar.

    .venv/bin/python benchmarks/solver.py [--part errors|many|source-lines|crossbar] [--store DIR]

Both sides of every ratio run in one process, one thread, one after the other. Times are CPU seconds: of ngspice those
of its process, which the store keeps, of the solver the least of five repetitions with the curves at hand.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import cosim
from cosim.arithmetic.patterns import pattern_bits
from cosim.cli.shared import use_threads
from cosim.config import Config
from cosim.currents import SolvedSource, SpiceSource
from cosim.mapping import Group
from cosim.solver import ArraySolver
from cosim.solver.crossbar import crossbar_currents
from cosim.spice import Simulator, Store

CORNERS = [("-40", "0.9"), ("-40", "1.1"), ("125", "0.9"), ("125", "1.1")]


def least(work: Callable[[], object], repeats: int = 5) -> float:
    """Least CPU seconds of some repetitions."""
    found = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def compare(title: str, settings: list[str], store: Path, reads: int | None = None) -> None:
    """Every pattern, or some reads drawn at random, of every group of conv2 of mnist-w4a4."""
    config = Config.load(None, ["run.fidelity=dc", "trim.method=none", *settings])
    network = cosim.load_network("mnist-w4a4")
    circuit = cosim.CircuitNetwork(network, config, store=store)
    source, array = circuit.source, circuit.arrays["conv2"]
    assert isinstance(source, SpiceSource)
    solved = SolvedSource(config, source.cell, source.simulator)
    rng = np.random.default_rng(0)
    requests = []
    for index, group in enumerate(array.plan.groups):
        if reads is None:
            drive = pattern_bits(np.arange(2**group.inputs), group.inputs)
        else:
            drive = (rng.random((reads, group.inputs)) < 0.25).astype(np.int64)
        requests.append(array.request(index, drive))
    source.usage.take()
    expected = [found.currents for found in source.currents(requests, title)]
    found = [each.currents for each in solved.currents(requests, title)]
    cells = sum(len(request.drive) * request.group.units.size for request in requests)
    seconds = least(lambda: list(solved.currents(requests, title)), 5 if solved.solver.shares_patterns else 2)
    error = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True)) / config.cell.unit_a
    lsb = error / cosim.arithmetic.codes.code_units(config)[0]
    spent = sum(source.simulator.store.load(deck.identity(source.identity), deck).seconds
                for deck in map(source.deck, requests)) if False else source.usage.ngspice_seconds  # fmt: skip
    ngspice = f"{1e6 * spent / cells:.3g} us" if spent else "from the store"
    ratio = f"{spent / seconds:,.0f} times" if spent else ""
    print(f"{title:34s} {lsb:8.1e} LSB   solver {1e6 * seconds / cells:.4f} us a cell and read   dc {ngspice}   {ratio}",
          flush=True)  # fmt: skip
