"""cosim: quantized neural networks on NOR-Flash compute-in-memory arrays, in the circuit simulator.

A trained network goes in at the top, each package does one thing to it, an accuracy comes out at the bottom:

    arithmetic bit planes, chunks of a kernel, codes: the integers that all others agree on
    network    the quantized network, LayerSpec: integer weights, scales, zero points, geometry
    importers  PyTorch or ONNX in -> a graph in plain form
    training   quantizers, fitting, recipes: graph -> network
    mapping    LayerSpec -> TilePlan: unrolling, tiling, levels, activations as patterns
    device     cards; level -> threshold shift, programmed to current
    netlist    TilePlan + shifts + patterns -> Deck
    spice      Deck -> bitline currents: ngspice, worker pool, store of results
    readout    currents -> codes -> partial sums -> layer output
    evaluate   CircuitNetwork, a torch module; runs, records, comparison
    experiments  many circuits on the same images; one value, one cell taken apart
    report     tables and pages from stored results
    studies    trainings and circuits behind the figures of docs/studies
    reference  oracles for tests: exact integer MVM, nodal array solver

    import cosim
    network = cosim.load_network("mnist-w4a4")
    circuit = cosim.CircuitNetwork(network, cosim.Config.load("cosim.toml"))
    logits = circuit(images)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosim.config import Config
    from cosim.datasets import Dataset, load_dataset
    from cosim.errors import CosimError, InputError, MachineError, SimulationError
    from cosim.evaluate import CircuitNetwork, Comparison, RunRecord, compare, compare_record, infer
    from cosim.experiments.attribution import Attribution, attribute
    from cosim.experiments.search import SearchResult, search
    from cosim.experiments.sweep import SweepResult, sweep
    from cosim.importers.onnx_file import load_onnx
    from cosim.network import LayerSpec, Network, SoftwareStep, load_network, save_network
    from cosim.training import Quantization, finetune, quantize

# Where each public name lives. They are imported when first used, since torch alone takes a second and the
# command line should answer --help at once.
_HOMES = {
    "cosim.config": ("Config",),
    "cosim.datasets": ("Dataset", "load_dataset"),
    "cosim.errors": ("CosimError", "InputError", "MachineError", "SimulationError"),
    "cosim.evaluate": ("CircuitNetwork", "Comparison", "RunRecord", "compare", "compare_record", "infer"),
    "cosim.experiments.attribution": ("Attribution", "attribute"),
    "cosim.experiments.search": ("SearchResult", "search"),
    "cosim.experiments.sweep": ("SweepResult", "sweep"),
    "cosim.importers.onnx_file": ("load_onnx",),
    "cosim.network": ("LayerSpec", "Network", "SoftwareStep", "load_network", "save_network"),
    "cosim.training": ("Quantization", "finetune", "quantize"),
}

__all__ = [
    "Attribution",
    "CircuitNetwork",
    "Comparison",
    "Config",
    "CosimError",
    "Dataset",
    "InputError",
    "LayerSpec",
    "MachineError",
    "Network",
    "Quantization",
    "RunRecord",
    "SearchResult",
    "SimulationError",
    "SoftwareStep",
    "SweepResult",
    "attribute",
    "compare",
    "compare_record",
    "finetune",
    "infer",
    "load_dataset",
    "load_network",
    "load_onnx",
    "quantize",
    "save_network",
    "search",
    "sweep",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'cosim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
