"""Commands that make networks."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from cosim.cli.shared import DataFolder, Force, app, console

WeightBits = Annotated[int, typer.Option(metavar="BITS", help="1 to 8.")]


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="mnist, lenet5, digits, resnet20, vgg or alexnet.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="Weights to write (.safetensors); the card goes beside."),
    ],
    data: DataFolder = None,
    weight_bits: WeightBits = 4,
    activation_bits: WeightBits = 4,
    weight_quantizer: Annotated[str, typer.Option(metavar="NAME", help="step, threshold or asymmetric.")] = "step",
    activation_quantizer: Annotated[str, typer.Option(metavar="NAME", help="step or clip.")] = "step",
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="One weight range a layer, not one a channel.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Fixes weights, order and distortions.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="For sums on a CPU; another number rounds differently.")] = 1,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    force: Force = False,
) -> None:
    """Train the network of a recipe, 4 bits if not told otherwise, and write its weights and card.

    An interrupted training continues when the same command is given again: each epoch is kept in FILE.*.checkpoint.
    """
    from cosim.files import check_outputs
    from cosim.network.quantize import Quantization
    from cosim.network.recipes import recipe_for
    from cosim.network.storage import card_path, check_weights_path

    recipe = recipe_for(name)
    asked: dict[str, Any] = {
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "weight_quantizer": weight_quantizer,
        "activation_quantizer": activation_quantizer,
        "per_channel": not per_layer,
    }
    how = Quantization(**asked)
    check_weights_path(out)
    check_outputs(out, card_path(out), force=force)
    import cosim
    from cosim.network.training import checkpoint_path, score, train

    training = cosim.load_dataset(recipe.dataset, "train", data)
    test = cosim.load_dataset(recipe.dataset, "test", data)
    stem = out.with_suffix("")
    network = train(recipe, training, how, seed=seed, checkpoints=stem, device=device, threads=threads)
    differing = {
        "--weight-bits": (weight_bits, 4),
        "--activation-bits": (activation_bits, 4),
        "--weight-quantizer": (weight_quantizer, "step"),
        "--activation-quantizer": (activation_quantizer, "step"),
        "--threads": (threads, 1),
    }
    options = [f"{key} {value}" for key, (value, usual) in differing.items() if value != usual]
    options += ["--per-layer"] if per_layer else []
    command = " ".join(["cosim train", name, *options, f"--seed {seed} --out {shlex.quote(out.name)}"])
    network.card = {"command": command, **network.card, **score(network, test)}
    cosim.save_network(network, out)
    for phase in ("float", "quantized"):
        checkpoint_path(stem, phase).unlink(missing_ok=True)
    console.print(
        f"float {100 * network.card['accuracy_float']:.2f} %, quantized {100 * network.card['accuracy_software']:.2f} %"
    )
    console.print(f"wrote {out} and {card_path(out)}", highlight=False)
