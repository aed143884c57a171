"""Commands that estimate runs."""

from __future__ import annotations

from typing import Annotated

import typer

from cosim.cli.shared import (
    ConfigFile,
    DataFolder,
    DatasetName,
    FidelityName,
    Force,
    JsonFile,
    NetworkName,
    Overrides,
    ProfileName,
    app,
    load_images,
    load_settings,
    print_plan,
    write_json,
)


@app.command()
def info(
    network: NetworkName,
    dataset: DatasetName = None,
    data: DataFolder = None,
    images: Annotated[int | None, typer.Option(min=1, help="Number of images. Default: all test images.")] = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    fidelity: FidelityName = None,
    json_file: JsonFile = None,
    force: Force = False,
) -> None:
    """Estimate a run without running it: tiles, reads, patterns, decks, time, memory and disk space."""
    import cosim
    from cosim.evaluate.plan import plan_run
    from cosim.files import check_outputs

    check_outputs(text=json_file, force=force)
    settings = load_settings(profile, config, overrides, {"run.fidelity": fidelity})
    loaded = cosim.load_network(network)
    plan = plan_run(loaded, settings, images or len(load_images(loaded, dataset, data)))
    write_json(json_file, plan)
    print_plan([plan])
