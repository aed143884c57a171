"""Commands that run a network on circuits, and commands that analyse finished runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosim.cli.shared import (
    ConfigFile,
    DataFolder,
    DatasetName,
    DryRun,
    FidelityName,
    Force,
    JsonFile,
    NetworkName,
    Overrides,
    PageFile,
    ProfileName,
    SplitName,
    StoreFolder,
    app,
    check_memory,
    console,
    load_images,
    load_settings,
    print_plan,
    use_threads,
    write_json,
)
from cosim.errors import ConfigError

if TYPE_CHECKING:
    import cosim


@app.command()
def demo(
    images: Annotated[int | None, typer.Option(help="Number of images. Default: all test images.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the results. Default: a new one in runs/.")
    ] = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    fidelity: FidelityName = None,
    store: StoreFolder = None,
    force: Force = False,
) -> None:
    """Classify handwritten digits on simulated arrays and compare with software. Needs no argument.

    Uses MNIST if it is found ($COSIM_DATA, data/mnist, shared/data/mnist), otherwise the digits that come with
    scikit-learn.
    """
    started = time.monotonic()
    import cosim
    from cosim.datasets import find_mnist
    from cosim.folders import check_folder, free_folder, whole_folder
    from cosim.report import layer_table, summary_table, write_page

    out = out or free_folder(Path("runs/demo"))
    check_folder(out, force=force)
    name, dataset = ("mnist-w4a4", "mnist") if find_mnist() else ("digits-w4a4", "digits")
    settings = load_settings(profile, config, overrides, {"run.fidelity": fidelity})
    network = cosim.load_network(name)
    test = cosim.load_dataset(dataset).head(images)
    check_memory(network, settings, len(test))
    use_threads(settings)
    record = cosim.infer(cosim.CircuitNetwork(network, settings, store=store), test)
    record = record.with_wall_seconds(time.monotonic() - started)
    with whole_folder(out, force=force) as folder:
        record.save(folder / "run.h5")
        write_page(record, folder / "report.html")
    comparison = cosim.compare_record(record)
    console.print(summary_table(comparison))
    console.print(layer_table(comparison))
    _print_cautions(comparison)
    console.print(f"results  {out / 'run.h5'}\nreport   {out / 'report.html'}", highlight=False)


@app.command()
def netlist(
    network: NetworkName,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the decks.")],
    profile: ProfileName = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    fidelity: FidelityName = None,
    store: StoreFolder = None,
    force: Force = False,
) -> None:
    """Write every deck of a network, each runnable with `ngspice -b DECK`, and manifest.json."""
    import cosim
    from cosim.folders import check_folder

    check_folder(out, force=force)
    settings = load_settings(profile, config, overrides, {"run.fidelity": fidelity})
    circuit = cosim.CircuitNetwork(cosim.load_network(network), settings, store=store)
    manifest = circuit.write_netlists(out, force=force)
    decks = len(json.loads(manifest.read_text())["decks"])
    console.print(f"wrote {decks} decks and {manifest}", highlight=False)


@app.command()
def infer(
    network: NetworkName,
    dataset: DatasetName = None,
    data: DataFolder = None,
    split: SplitName = "test",
    images: Annotated[int | None, typer.Option(help="Number of images. Default: all.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN.h5", help="File for the results.")] = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    fidelity: FidelityName = None,
    workers: Annotated[int | None, typer.Option(help="Parallel ngspice processes. Default: one per core.")] = None,
    store: StoreFolder = None,
    json_file: JsonFile = None,
    dry_run: DryRun = False,
    keep_reads: Annotated[
        bool, typer.Option("--keep-reads", help="Keep every read of every group in RUN.h5, which may be large.")
    ] = False,
    force: Force = False,
) -> None:
    """Classify test images with the network's array layers on simulated circuits."""
    started = time.monotonic()  # importing is part of the time that a user waits
    import cosim
    from cosim.evaluate.plan import plan_run
    from cosim.files import check_outputs
    from cosim.report import layer_table, summary_table

    check_outputs(out, text=json_file, force=force)
    named = {"run.fidelity": fidelity, "run.workers": workers, "run.keep_reads": "true" if keep_reads else None}
    settings = load_settings(profile, config, overrides, named)
    loaded = cosim.load_network(network)
    test = load_images(loaded, dataset, data, split).head(images)
    plan = plan_run(loaded, settings, len(test))
    if dry_run:
        write_json(json_file, plan)
        print_plan([plan])
        return
    plan.check_memory()
    use_threads(settings)
    record = cosim.infer(cosim.CircuitNetwork(loaded, settings, store=store), test)
    record = record.with_wall_seconds(time.monotonic() - started)
    comparison = cosim.compare_record(record)
    if out is not None:
        record.save(out)
    write_json(json_file, comparison)
    console.print(summary_table(comparison))
    console.print(layer_table(comparison))
    _print_cautions(comparison)
    if out is not None:
        console.print(f"results  {out}", highlight=False)


@app.command()
def compare(
    run: Annotated[Path, typer.Argument(metavar="RUN.h5", help="A file written by `cosim infer --out`.")],
    json_file: JsonFile = None,
    force: Force = False,
) -> None:
    """Compare circuit and software in a finished run, image by image and layer by layer."""
    from cosim.evaluate import RunRecord, compare_record
    from cosim.files import check_outputs
    from cosim.report import disagreement_table, layer_table, summary_table

    check_outputs(text=json_file, force=force)
    record = RunRecord.load(run)
    comparison = compare_record(record)
    write_json(json_file, comparison)
    console.print(summary_table(comparison))
    console.print(layer_table(comparison))
    _print_cautions(comparison)
    if comparison.disagreements:
        console.print(disagreement_table(record))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN.h5", help="A file written by `cosim infer --out`.")],
    out: PageFile,
    force: Force = False,
) -> None:
    """Write a finished run as a single self-contained HTML page."""
    from cosim.evaluate import RunRecord
    from cosim.files import check_outputs
    from cosim.report import write_page

    check_outputs(text=out, force=force)
    write_page(RunRecord.load(run), out)
    console.print(f"wrote {out}", highlight=False)


@app.command()
def probe(
    source: Annotated[
        str, typer.Argument(metavar="NETWORK|RUN.h5", help="A network, or a finished run with its configuration.")
    ],
    image: Annotated[int, typer.Option(metavar="I", help="Number of the test image, from 0.")],
    layer: Annotated[str, typer.Option(metavar="L", help="Name of a layer on arrays.")],
    at: Annotated[str, typer.Option(metavar="Y,X", help="Row and column of the output; 0,0 for a linear layer.")],
    channel: Annotated[int, typer.Option(metavar="C", help="Output channel.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for JSON, plot, waveform file and decks.")
    ] = None,
    dataset: DatasetName = None,
    data: DataFolder = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    fidelity: FidelityName = None,
    store: StoreFolder = None,
    force: Force = False,
) -> None:
    """Show how one output value is computed: patch, patterns, cells, waveform, codes and sums, next to software."""
    import numpy as np

    import cosim
    from cosim.config import MACHINE_KEYS
    from cosim.evaluate import RunRecord
    from cosim.experiments.probe import probe
    from cosim.folders import check_folder, whole_folder
    from cosim.report.probe_report import probe_tables, write_probe

    check_folder(out, force=force)
    place = _place(at)
    given = load_settings(profile, config, overrides, {"run.fidelity": fidelity})
    record = RunRecord.load(Path(source)) if source.endswith(".h5") else None
    if record is None:
        network, settings = cosim.load_network(source), given
        test = load_images(network, dataset, data)
    else:
        came = record.provenance
        if dataset or given != cosim.Config().on_machine(given):
            raise ConfigError(
                "a finished run has its own configuration and data set, and only keys of the machine can be set: leave "
                f"--dataset out, and set only {', '.join(MACHINE_KEYS)}"
            )
        network, settings = cosim.load_network(came.network_source), came.config.on_machine(given)
        test = cosim.load_dataset(came.dataset, "test", data).head(came.images)
        network.check_images(test.real(0, 1))
    check_memory(network, settings, 1)
    found = probe(network, test, settings, image=image, layer=layer, at=place, channel=channel, store=store)
    for table in probe_tables(found):
        console.print(table)
    if record is not None and not np.array_equal(found.logits, record.logits_circuit[image]):
        console.print(
            f"caution  {source} has other logits for this image: the network or cosim has changed since that run"
        )
    if out is not None:
        with whole_folder(out, force=force) as folder:
            written = write_probe(found, folder)
        console.print(f"wrote {', '.join(path.name for path in written)} into {out}", highlight=False)


def _place(text: str) -> tuple[int, int]:
    """Row and column from Y,X."""
    row, _, column = text.partition(",")
    try:
        return int(row), int(column)
    except ValueError:
        raise ConfigError(f"expected a row and a column after --at, such as 3,4, found {text!r}") from None


@app.command()
def store(
    folder: StoreFolder = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove every stored result.")] = False,
) -> None:
    """Show where simulation results are stored and how much space they take, or remove them."""
    from cosim.spice import Store, default_store, is_store

    place = folder or default_store()
    if not is_store(place):
        console.print(
            f"store     {place}: does not exist yet, or is not a store", highlight=False, soft_wrap=True, markup=False
        )
        return
    kept = Store(place)
    results, failures, size = kept.size()
    console.print(f"store     {kept.root}", highlight=False, soft_wrap=True)
    console.print(f"results   {results:,}\nfailures  {failures:,}\nsize      {size / 2**20:.1f} MiB", highlight=False)
    if clear:
        kept.clear()
        console.print("cleared")


def _print_cautions(comparison: cosim.Comparison) -> None:
    from cosim.report import find_cautions

    for caution in find_cautions(comparison):
        console.print(f"caution  {caution}", style="yellow", highlight=False, markup=False)
