"""The command line: parses, calls the public names, prints.

Exit status: 0 done, 2 the input or the machine is wrong, 3 the simulator failed, 130 interrupted.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cosim.errors import CosimError

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
_INTERRUPTED = 130

NetworkName = Annotated[
    str, typer.Argument(metavar="NETWORK", help="A shipped network's name, or a .safetensors file.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Configuration in TOML.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a configuration key, as array.open_wordlines=9; repeatable."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what exists.")]
StoreFolder = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="Simulation results; else $COSIM_STORE, else the user's cache."),
]
FidelityName = Annotated[str | None, typer.Option("--fidelity", metavar="NAME", help="ideal, dc or tran.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")]
DataFolder = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Folder of the data set's files.")]


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.print(*(f"{package} {version(package)}" for package in ("cosim", "torch", "PySpice")), highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and leave.")
    ] = False,
) -> None:
    """Quantized neural networks on NOR-Flash compute-in-memory arrays, in the circuit simulator."""


@app.command()
def demo(
    images: Annotated[int | None, typer.Option(help="Images to classify; left out, all test images.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the results; left out, a new one below runs/.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    store: StoreFolder = None,
    force: Force = False,
) -> None:
    """Classify handwritten digits on simulated arrays and compare with software. Needs no argument.

    Takes MNIST where it is found ($COSIM_DATA, data/mnist, shared/data/mnist), else the digits that come with
    scikit-learn.
    """
    import cosim
    from cosim.datasets import find_mnist
    from cosim.files import new_folder
    from cosim.report import layer_table, summary_table, write_page

    started = time.monotonic()
    name, dataset = ("mnist-w4a4", "mnist") if find_mnist() else ("digits-w4a4", "digits")
    circuit = _circuit(name, config, overrides, store)
    test = cosim.load_dataset(dataset).head(images)
    _use_threads(circuit.config)
    out = new_folder(out, Path("runs/demo"), force=force)
    record = cosim.infer(circuit, test)
    record.facts["wall_seconds"] = time.monotonic() - started
    record.save(out / "run.h5")
    write_page(record, out / "report.html")
    comparison = cosim.compare_record(record)
    console.print(summary_table(comparison))
    console.print(layer_table(comparison))
    console.print(f"results  {out / 'run.h5'}\nreport   {out / 'report.html'}", highlight=False)


@app.command()
def train(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="mnist or digits.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="Weights to write (.safetensors); the card goes beside."),
    ],
    data: DataFolder = None,
    weight_bits: Annotated[int, typer.Option(metavar="BITS", help="1 to 8.")] = 4,
    activation_bits: Annotated[int, typer.Option(metavar="BITS", help="1 to 8.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Fixes weights, order and distortions.")] = 0,
    force: Force = False,
) -> None:
    """Train the network of a data set, 4 bits if not told otherwise, and write its weights and card."""
    from cosim.files import check_outputs
    from cosim.network.recipes import recipe_for
    from cosim.network.storage import card_path, check_weights_path

    recipe = recipe_for(dataset, weight_bits=weight_bits, activation_bits=activation_bits)
    check_weights_path(out)
    check_outputs(out, card_path(out), force=force)
    import cosim
    from cosim.network.training import score, train

    training, test = cosim.load_dataset(dataset, "train", data), cosim.load_dataset(dataset, "test", data)
    started = time.monotonic()
    network = train(recipe, training, seed=seed)
    bits = (
        ""
        if (weight_bits, activation_bits) == (4, 4)
        else f" --weight-bits {weight_bits} --activation-bits {activation_bits}"
    )
    network.card = {
        "command": f"cosim train {dataset}{bits} --seed {seed} --out {shlex.quote(out.name)}",
        **score(network, recipe, training, test, seed),
        "training_seconds": round(time.monotonic() - started),
    }
    cosim.save_network(network, out)
    console.print(
        f"float {100 * network.card['accuracy_float']:.2f} %, quantized {100 * network.card['accuracy_software']:.2f} %"
    )
    console.print(f"wrote {out} and {card_path(out)}", highlight=False)


@app.command()
def netlist(
    network: NetworkName,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the decks.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
    fidelity: FidelityName = None,
    store: StoreFolder = None,
    force: Force = False,
) -> None:
    """Write every deck of a network, each runnable with `ngspice -b DECK`, and manifest.json."""
    overrides = _with_named(overrides, {"run.fidelity": fidelity})
    manifest = _circuit(network, config, overrides, store).write_netlists(out, force=force)
    decks = len(json.loads(manifest.read_text())["decks"])
    console.print(f"wrote {decks} decks and {manifest}", highlight=False)


@app.command()
def infer(
    network: NetworkName,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="mnist or digits; left out, the one the network was trained on.")
    ] = None,
    data: DataFolder = None,
    images: Annotated[int | None, typer.Option(help="How many test images; left out, all.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN.h5", help="Where the results go.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    fidelity: FidelityName = None,
    workers: Annotated[int | None, typer.Option(help="ngspice processes at a time; left out, one a core.")] = None,
    store: StoreFolder = None,
    json_file: JsonFile = None,
    force: Force = False,
) -> None:
    """Classify test images with the network's array layers on simulated circuits."""
    import cosim
    from cosim.files import check_outputs
    from cosim.report import layer_table, summary_table

    started = time.monotonic()
    check_outputs(out, json_file, force=force)
    overrides = _with_named(overrides, {"run.fidelity": fidelity, "run.workers": workers})
    settings, loaded = cosim.Config.load(config, overrides), cosim.load_network(network)
    test = cosim.load_dataset(dataset or loaded.card.get("dataset", "mnist"), "test", data).head(images)
    loaded.check_images(test.real(0, 1))
    _use_threads(settings)
    record = cosim.infer(cosim.CircuitNetwork(loaded, settings, store=store), test)
    record.facts["wall_seconds"] = time.monotonic() - started
    comparison = cosim.compare_record(record)
    if out is not None:
        record.save(out)
    _write_json(json_file, comparison)
    console.print(summary_table(comparison))
    console.print(layer_table(comparison))
    if out is not None:
        console.print(f"results  {out}", highlight=False)


@app.command()
def compare(
    run: Annotated[Path, typer.Argument(metavar="RUN.h5", help="What `cosim infer --out` wrote.")],
    json_file: JsonFile = None,
    force: Force = False,
) -> None:
    """Compare circuit and software in a finished run, image by image and layer by layer."""
    from cosim.evaluate import RunRecord, compare_record
    from cosim.files import check_outputs
    from cosim.report import disagreement_table, layer_table, summary_table

    check_outputs(json_file, force=force)
    record = RunRecord.load(run)
    comparison = compare_record(record)
    _write_json(json_file, comparison)
    console.print(summary_table(comparison))
    console.print(layer_table(comparison))
    if comparison.disagreements:
        console.print(disagreement_table(record))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN.h5", help="What `cosim infer --out` wrote.")],
    out: Annotated[Path, typer.Option("--out", metavar="report.html", help="The page to write.")],
    force: Force = False,
) -> None:
    """Write a finished run as one self-contained page."""
    from cosim.evaluate import RunRecord
    from cosim.files import check_outputs
    from cosim.report import write_page

    check_outputs(out, force=force)
    write_page(RunRecord.load(run), out)
    console.print(f"wrote {out}", highlight=False)


@app.command()
def store(
    folder: StoreFolder = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove every stored result.")] = False,
) -> None:
    """Show where simulation results are kept and how much room they take; clear them."""
    from cosim.spice import Store, default_store, is_store

    place = folder or default_store()
    if not is_store(place):
        console.print(f"store     {place}: not made yet, or no store", highlight=False, soft_wrap=True, markup=False)
        return
    kept = Store(place)
    results, failures, size = kept.size()
    console.print(f"store     {kept.root}", highlight=False, soft_wrap=True)
    console.print(f"results   {results:,}\nfailures  {failures:,}\nsize      {size / 2**20:.1f} MiB", highlight=False)
    if clear:
        kept.clear()
        console.print("cleared")


def _circuit(
    network: str, config: Path | None, overrides: list[str] | None, store: Path | None
) -> cosim.CircuitNetwork:
    import cosim

    settings = cosim.Config.load(config, overrides or [])
    return cosim.CircuitNetwork(cosim.load_network(network), settings, store=store)


def _use_threads(settings: cosim.Config) -> None:
    import torch

    torch.set_num_threads(settings.run.tensor_threads)


def _with_named(overrides: list[str] | None, named: dict[str, object]) -> list[str]:
    """Overrides, and those that have an option of their own."""
    return [*(overrides or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]


def _write_json(path: Path | None, comparison: cosim.Comparison) -> None:
    from cosim.files import write_whole

    if path is not None:
        write_whole(path, json.dumps(comparison.to_json(), indent=2) + "\n")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """What ends a process politely ends it as Ctrl-C does: simulators stopped, results kept."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line and leave with its exit status."""
    status: str | int | None = 0
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupt)
    try:
        app()
    except CosimError as error:
        print(f"error: {error}", file=sys.stderr)
        status = error.exit_status
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except OSError as error:  # standard output is full or closed
        print(f"error: cannot write to standard output: {error.strerror}", file=sys.stderr)
        status = 2
    if status == _INTERRUPTED:
        print("interrupted: what was simulated is stored, and the next run continues", file=sys.stderr)
    sys.exit(status)
