"""Commands that make networks."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from cosim.cli.shared import DataFolder, Force, app, console


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
