"""What several commands share: their options, and steps between parsing and the public names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:  # the library is imported by the commands that need it, so that --help is quick
    import cosim

app = typer.Typer(
    name="cosim",
    help="Quantized neural networks on NOR-Flash compute-in-memory arrays, in the circuit simulator.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
console = Console()

NetworkName = Annotated[
    str, typer.Argument(metavar="NETWORK", help="A shipped network's name, or a .safetensors file.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Configuration in TOML.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a configuration key, as array.open_wordlines=9; repeatable."),
]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", metavar="NAME", help="mnist or digits; left out, the one it was trained on.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what exists.")]
StoreFolder = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="Simulation results; else $COSIM_STORE, else the user's cache."),
]
FidelityName = Annotated[str | None, typer.Option("--fidelity", metavar="NAME", help="ideal, dc or tran.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")]
DataFolder = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Folder of the data set's files.")]


def make_circuit(
    network: str, config: Path | None, overrides: list[str] | None, store: Path | None
) -> cosim.CircuitNetwork:
    import cosim

    settings = cosim.Config.load(config, overrides or [])
    return cosim.CircuitNetwork(cosim.load_network(network), settings, store=store)


def use_threads(settings: cosim.Config) -> None:
    import torch

    torch.set_num_threads(settings.run.tensor_threads)


def with_named(overrides: list[str] | None, named: dict[str, object]) -> list[str]:
    """Overrides, and those that have an option of their own."""
    return [*(overrides or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]
