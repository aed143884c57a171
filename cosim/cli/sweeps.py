"""Commands that run a network on many circuits: grids of configurations, searches, and one effect at a time."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    load_settings,
    print_plan,
    use_threads,
)
from cosim.errors import ConfigError, SimulationError

if TYPE_CHECKING:
    import cosim
    from cosim.evaluate.plan import RunPlan

# The files by which the folder of a sweep and that of a search are told apart.
_SWEPT, _SEARCHED = "sweep.h5", "search.json"
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
    from cosim.experiments.points import POINTS, combinations, plan_points
    from cosim.experiments.sweep import check_grid
    from cosim.folders import whole_folder
    from cosim.report.sweep_plots import write_sweep_plots
    from cosim.report.sweep_tables import sweep_table, write_sweep_table

    _check_continued(out, _SWEPT, force)
    settings = load_settings(profile, config, overrides, {"run.fidelity": fidelity})
    axes = _axes(over or [], "--over")
    grid = combinations(check_grid(axes, seeds))
    loaded, test = _loaded(network, dataset, data, split, images, settings)
    plans = plan_points(loaded, settings, grid, len(test))
    if dry_run:
        print_plan(plans)
        return
    _check_memory(plans)
    result = cosim.sweep(loaded, test, settings, over=axes, seeds=seeds, folder=out, store=store, again=force)
    with whole_folder(out, force=True, beside=[POINTS]) as folder:
        result.save(folder / _SWEPT)
        written = [folder / _SWEPT, write_sweep_table(result, folder / "table.md")]
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
def search(
    network: NetworkName,
    design: Annotated[
        list[str],
        typer.Option(
            "--design", metavar="KEY=V1,V2,...", help="Values of a design's key, as adc.bits=7,8; repeatable."
        ),
    ],
    seeds: Annotated[int, typer.Option(metavar="N", help="Virtual chips, variation.chip 0..N-1.")],
    images: Annotated[int, typer.Option(metavar="N", help="How many images, from the first.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the search; continued where it exists.")],
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="KEY=V1,V2,...", help="Conditions, as corner.process=tt,ff,ss; repeatable."),
    ] = None,
    by: Annotated[
        Literal["mean", "worst"], typer.Option(metavar="NAME", help="mean over the conditions, or worst condition.")
    ] = "mean",
    dataset: DatasetName = None,
    data: DataFolder = None,
    split: SplitName = "train",
    profile: ProfileName = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    fidelity: FidelityName = None,
    store: StoreFolder = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Choose among designs by conditions and virtual chips together, on training images: successive halving.

    Points that have a result are not run again, unless --force is given. The best design is written as best.toml, which
    --config takes.
    """
    import cosim
    from cosim.experiments.points import POINTS
    from cosim.experiments.search import plan_search
    from cosim.folders import whole_folder
    from cosim.report.search_tables import search_table, write_search

    _check_continued(out, _SEARCHED, force)
    settings = load_settings(profile, config, overrides, {"run.fidelity": fidelity})
    designs, conditions = _axes(design, "--design"), _axes(over or [], "--over")
    loaded, train = _loaded(network, dataset, data, split, images, settings)
    plans = plan_search(loaded, train, settings, designs=designs, over=conditions, seeds=seeds)
    if dry_run:
        print_plan(plans)
        return
    _check_memory(plans)
    result = cosim.search(
        loaded, train, settings,
        designs=designs, over=conditions, seeds=seeds, by=by, folder=out, store=store, again=force,
    )  # fmt: skip
    with whole_folder(out, force=True, beside=[POINTS]) as folder:
        written = write_search(result, folder)
    console.print(search_table(result))
    console.print(f"wrote {', '.join(path.name for path in written)} into {out}", highlight=False)
    if result.best is None:
        raise SimulationError(
            f"none of the {len(result.candidates)} designs can be built and run; they are tried again when the same "
            f"command is given. The first: {result.candidates[0].reason}"
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
    settings = load_settings(profile, config, overrides, {"run.fidelity": fidelity})
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


def _check_continued(out: Path, result: str, force: bool) -> None:
    """Refuse a folder that is neither free nor one whose points the command can continue with, unless forced.

    Args:
        out: the folder.
        result: name of the file that the command leaves there; a folder with that of another command is not continued.
        force: whether to replace what cosim wrote there.
    """
    from cosim.experiments.points import POINTS
    from cosim.folders import check_folder

    others = {_SWEPT, _SEARCHED} - {result}
    continued = (out / POINTS).is_dir() and not any((out / name).exists() for name in others)
    check_folder(out, force=force or continued, beside=[POINTS])


def _check_memory(plans: list[RunPlan]) -> None:
    """Refuse points that do not fit into memory. Many of them share a plan."""
    for plan in {id(plan): plan for plan in plans}.values():
        plan.check_memory()


def _axes(given: list[str], option: str) -> dict[str, list[str]]:
    """Parse axes of the form KEY=V1,V2,... A value that contains a comma is in double quotes."""
    axes: dict[str, list[str]] = {}
    for text in given:
        key, equals, values = text.partition("=")
        key = key.strip()
        if not equals or not values.strip():
            raise ConfigError(f"expected section.key=value,value,... after {option}, found {text!r}")
        if key in axes:
            raise ConfigError(f"axis {key} is given twice: name all its values after one {option}")
        axes[key] = next(csv.reader([values], skipinitialspace=True))
    return axes
