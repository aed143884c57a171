"""Commands for cells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosim.cli.shared import ConfigFile, Force, Overrides, ProfileName, StoreFolder, app, console, load_settings

CardName = Annotated[
    str | None,
    typer.Option("--card", metavar="NAME|FILE", help="Name of a shipped card, or a file. Default: cell.card."),
]


@app.command()
def characterize(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for CSV files, plots and summary.json.")],
    card: CardName = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    store: StoreFolder = None,
    force: Force = False,
) -> None:
    """Measure a cell: curves, levels, their linearity, and the effects of temperature, process and supply."""
    from cosim.experiments.characterization import characterize
    from cosim.folders import check_folder, whole_folder
    from cosim.report.cell_plots import write_cell_plots
    from cosim.report.cell_tables import cell_corner_table, cell_table, write_cell_tables
    from cosim.spice import Simulator, Store

    check_folder(out, force=force)
    settings = load_settings(profile, config, overrides, {"cell.card": card})
    measured = characterize(settings, Simulator(settings.run, Store(store)))
    with whole_folder(out, force=force) as folder:
        written = [*write_cell_tables(measured, folder), *write_cell_plots(measured, folder)]
    console.print(cell_table(measured))
    console.print(cell_corner_table(measured))
    console.print(f"wrote {', '.join(path.name for path in written)} into {out}", highlight=False)


@app.command()
def program(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for summary.json, cells.csv and a plot.")],
    cells: Annotated[int, typer.Option("--cells", min=2, max=100_000, help="Number of cells for each level.")] = 1000,
    card: CardName = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    store: StoreFolder = None,
    force: Force = False,
) -> None:
    """Program cells to every level: pulses, time, thresholds, currents, and the effects of age and corner."""
    from cosim.experiments.programmed import program_cells
    from cosim.folders import check_folder, whole_folder
    from cosim.report.programmed_cells import programmed_table, write_programmed
    from cosim.spice import Simulator, Store

    check_folder(out, force=force)
    settings = load_settings(profile, config, overrides, {"cell.card": card})
    measured = program_cells(settings, Simulator(settings.run, Store(store)), cells)
    with whole_folder(out, force=force) as folder:
        written = write_programmed(measured, folder)
    console.print(programmed_table(measured))
    console.print(f"wrote {', '.join(path.name for path in written)} into {out}", highlight=False)
