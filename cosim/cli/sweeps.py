"""Commands that run a network on many circuits: grids of configurations, and one effect at a time."""

from __future__ import annotations

import csv
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
    NetworkName,
    Overrides,
    ProfileName,
    SplitName,
    StoreFolder,
    app,
    check_memory,
    console,
    load_images,
    print_plan,
    use_threads,
    with_named,
)
from cosim.errors import ConfigError, SimulationError

if TYPE_CHECKING:
    import cosim

ImageCount = Annotated[int | None, typer.Option("--images", help="How many images; left out, all.")]


@app.command()
def sweep(
    network: NetworkName,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the sweep; continued where it exists.")],
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="KEY=V1,V2,...", help="An axis, as corner.process=tt,ff,ss; repeatable."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Virtual chips at each point, variation.chip 0..N-1.")
    ] = None,
    dataset: DatasetName = None,
    data: DataFolder = None,
    split: SplitName = "test",
    images: ImageCount = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    fidelity: FidelityName = None,
    store: StoreFolder = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Run a network at every point of a grid of configurations: table, HDF5 file and plots.

    Points that have a result are not run again, unless --force is given. Points that fail are counted, and the exit
    status is 3.
    """
    import cosim
    from cosim.experiments.sweep import POINTS, check_axes, plan_points
    from cosim.folders import check_folder, whole_folder
    from cosim.report.sweep_plots import write_sweep_plots
    from cosim.report.sweep_tables import sweep_table, write_sweep_table

    check_folder(out, force=force or (out / POINTS).is_dir(), beside=[POINTS])
    settings, axes = (
        cosim.Config.load(config, with_named(overrides, {"run.fidelity": fidelity}), profile),
        _axes(over or []),
    )
    check_axes(axes, seeds)
    loaded, test = _loaded(network, dataset, data, split, images, settings)
    plans = plan_points(loaded, settings, axes, seeds, len(test))
    if dry_run:
        print_plan(plans)
        return
    for plan in {id(plan): plan for plan in plans}.values():
        plan.check_memory()
    result = cosim.sweep(loaded, test, settings, over=axes, seeds=seeds, folder=out, store=store, again=force)
    with whole_folder(out, force=True, beside=[POINTS]) as folder:
        result.save(folder / "sweep.h5")
        written = [folder / "sweep.h5", write_sweep_table(result, folder / "table.md")]
        written += write_sweep_plots(result, folder)
    console.print(sweep_table(result))
    console.print(f"wrote {', '.join(path.name for path in written)} into {out}", highlight=False)
    if result.failed:
        first = next(reason for reason in result.reasons.ravel() if reason)
        raise SimulationError(
            f"{result.failed} of {result.done.size} points failed; they are tried again when the same command is "
            f"given. The first: {first}"
        )


@app.command()
def attribute(
    network: NetworkName,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for attribution.json and waterfall.png.")
    ] = None,
    dataset: DatasetName = None,
    data: DataFolder = None,
    split: SplitName = "test",
    images: ImageCount = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    fidelity: FidelityName = None,
    store: StoreFolder = None,
    force: Force = False,
) -> None:
    """Go from the ideal network to the configured circuit one effect at a time, each alone and cumulatively."""
    import cosim
    from cosim.folders import check_folder, whole_folder
    from cosim.report.attribution_report import attribution_table, write_attribution

    check_folder(out, force=force)
    settings = cosim.Config.load(config, with_named(overrides, {"run.fidelity": fidelity}), profile)
    loaded, test = _loaded(network, dataset, data, split, images, settings)
    check_memory(loaded, settings, len(test))
    found = cosim.attribute(loaded, test, settings, store=store)
    console.print(attribution_table(found))
    if out is not None:
        with whole_folder(out, force=force) as folder:
            written = write_attribution(found, folder)
        console.print(f"wrote {', '.join(path.name for path in written)} into {out}", highlight=False)


def _loaded(
    network: str, dataset: str | None, data: Path | None, split: SplitName, images: int | None, settings: cosim.Config
) -> tuple[cosim.Network, cosim.Dataset]:
    """A network and the images of a split."""
    import cosim

    loaded = cosim.load_network(network)
    test = load_images(loaded, dataset, data, split).head(images)
    use_threads(settings)
    return loaded, test


def _axes(over: list[str]) -> dict[str, list[str]]:
    """Parse axes of the form KEY=V1,V2,... A value that contains a comma is in double quotes."""
    axes: dict[str, list[str]] = {}
    for text in over:
        key, equals, values = text.partition("=")
        key = key.strip()
        if not equals or not values.strip():
            raise ConfigError(f"expected section.key=value,value,... after --over, found {text!r}")
        if key in axes:
            raise ConfigError(f"axis {key} is given twice: name all its values after one --over")
        axes[key] = next(csv.reader([values], skipinitialspace=True))
    return axes
