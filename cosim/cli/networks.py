"""Commands that train and quantize networks."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cosim.cli.shared import (
    ConfigFile,
    DataFolder,
    Force,
    Overrides,
    ProfileName,
    app,
    check_classes,
    console,
    load_settings,
)
from cosim.errors import NetworkError

if TYPE_CHECKING:
    from torch import fx

    import cosim

WeightBits = Annotated[int, typer.Option(metavar="BITS", help="1 to 8.")]
WeightQuantizerName = Annotated[
    str, typer.Option(metavar="NAME", help="step, threshold, asymmetric, expected, odd or power-of-two.")
]
ActivationQuantizerName = Annotated[str, typer.Option(metavar="NAME", help="step, clip or expected.")]


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="mnist, lenet5, digits, resnet20, vgg or alexnet.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="File for the weights (.safetensors); the card goes next to it."),
    ],
    data: DataFolder = None,
    weight_bits: WeightBits = 4,
    activation_bits: WeightBits = 4,
    weight_quantizer: WeightQuantizerName = "step",
    activation_quantizer: ActivationQuantizerName = "step",
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="One weight range per layer instead of per channel.")
    ] = False,
    partial_sums: Annotated[
        str | None,
        typer.Option(metavar="ROUNDING", help="Train with digitized partial sums: straight-through or concrete."),
    ] = None,
    noise_lsb: Annotated[float, typer.Option(metavar="CODES", help="Sense-amplifier noise for --partial-sums.")] = 0.0,
    profile: ProfileName = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    float_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs in float. Default: those of the recipe.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs with quantizers. Default: the recipe's.")] = None,
    rate_factor: Annotated[float, typer.Option(min=1e-6, max=1e6, help="Factor on the recipe's learning rates.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and distortions.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads. The number changes the rounding of sums.")] = 1,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    force: Force = False,
) -> None:
    """Train the network of a recipe, by default with 4 bits, and write its weights and card.

    An interrupted training continues when the same command is given again: each epoch is kept in FILE.*.checkpoint.
    """
    from cosim.errors import ConfigError
    from cosim.files import check_outputs
    from cosim.network.storage import card_path, check_weights_path
    from cosim.training.quantize import Quantization
    from cosim.training.recipes import recipe_for

    recipe = recipe_for(name).rescheduled(float_epochs, epochs, rate_factor)
    asked: dict[str, Any] = {
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "weight_quantizer": weight_quantizer,
        "activation_quantizer": activation_quantizer,
        "per_channel": not per_layer,
    }
    if partial_sums is not None:
        arrays = load_settings(profile, config, overrides)
        asked |= {"arrays": arrays, "rounding": partial_sums, "noise_lsb": noise_lsb}
    elif noise_lsb or profile or config or overrides:
        raise ConfigError(
            "--noise-lsb, --profile, --config and --set only describe the arrays of --partial-sums, which is missing: "
            "add --partial-sums"
        )
    how = Quantization(**asked)
    check_weights_path(out)
    check_outputs(out, card_path(out), force=force)
    import cosim
    from cosim.training.train import checkpoint_path, score, train

    training = cosim.load_dataset(recipe.dataset, "train", data)
    test = cosim.load_dataset(recipe.dataset, "test", data)
    stem = out.with_suffix("")
    network = train(recipe, training, how, seed=seed, checkpoints=stem, device=device, threads=threads)
    differing = {
        "--weight-bits": (weight_bits, 4),
        "--activation-bits": (activation_bits, 4),
        "--weight-quantizer": (weight_quantizer, "step"),
        "--activation-quantizer": (activation_quantizer, "step"),
        "--float-epochs": (float_epochs, None),
        "--epochs": (epochs, None),
        "--rate-factor": (rate_factor, 1.0),
        "--threads": (threads, 1),
        "--partial-sums": (partial_sums, None),
        "--noise-lsb": (noise_lsb, 0.0),
        "--profile": (profile, None),
        "--config": (config, None),
    }
    options = [f"{key} {value}" for key, (value, usual) in differing.items() if value != usual]
    options += ["--per-layer"] if per_layer else []
    options += [f"--set {shlex.quote(override)}" for override in overrides or []]
    command = " ".join(["cosim train", name, *options, f"--seed {seed} --out {shlex.quote(out.name)}"])
    network.card = {"command": command, **network.card, **score(network, test)}
    cosim.save_network(network, out, force=force)
    for phase in ("float", "quantized"):
        checkpoint_path(stem, phase).unlink(missing_ok=True)
    console.print(
        f"float {100 * network.card['accuracy_float']:.2f} %, quantized {100 * network.card['accuracy_software']:.2f} %"
    )
    console.print(f"wrote {out} and {card_path(out)}", highlight=False)


@app.command()
def study(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="bits, granularity, partial-sums, partial-sums-cifar10, low-bit or cifar10."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the trials. An existing study continues.")
    ],
    seeds: Annotated[int | None, typer.Option(min=1, help="Trainings of each kind. Default: the study's.")] = None,
    data: DataFolder = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Parallel trainings. Default: one per core.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train the networks of a study and write its table and plot. Trials that have a result are not repeated."""
    from rich.table import Table

    from cosim.studies import run_study, study_for

    chosen = study_for(name)
    results = run_study(chosen, out, seeds=seeds, data=data, workers=workers, device=device)
    head, *rows = chosen.table(results)
    table = Table(*head, title=chosen.question)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"wrote {out / 'table.md'}, {out / 'plot.png'} and {out / 'results.json'}", highlight=False)


@app.command()
def quantize(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="A trained float classifier.")],
    dataset: Annotated[str, typer.Option(metavar="NAME", help="mnist, digits or cifar10.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="File for the weights (.safetensors); the card goes next to it."),
    ],
    data: DataFolder = None,
    weight_bits: WeightBits = 4,
    activation_bits: WeightBits = 4,
    weight_quantizer: WeightQuantizerName = "step",
    activation_quantizer: ActivationQuantizerName = "step",
    per_channel: Annotated[
        bool, typer.Option("--per-channel/--per-layer", help="One weight range per output channel or per layer.")
    ] = True,
    calibration_images: Annotated[int, typer.Option(metavar="N", help="Training images used to fit ranges.")] = 512,
    epochs: Annotated[int, typer.Option(min=0, metavar="N", help="Epochs of fine-tuning; 0 for none.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of calibration images and fine-tuning.")] = 0,
    force: Force = False,
) -> None:
    """Quantize a network from an ONNX file, fine-tune it if asked to, and write its weights and card.

    An interrupted fine-tuning continues when the same command is given again: each epoch is kept in FILE.*.checkpoint.
    """
    from cosim.files import check_outputs
    from cosim.network.storage import card_path, check_weights_path
    from cosim.training.quantize import Quantization

    options: dict[str, Any] = {
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "weight_quantizer": weight_quantizer,
        "activation_quantizer": activation_quantizer,
        "per_channel": per_channel,
    }
    Quantization(**options)
    check_weights_path(out)
    check_outputs(out, card_path(out), force=force)
    import torch

    import cosim
    from cosim.training.train import checkpoint_path, score

    module = cosim.load_onnx(file)
    training, test = cosim.load_dataset(dataset, "train", data), cosim.load_dataset(dataset, "test", data)
    _check_fit(module, test)
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))
    training = replace(training, images=training.images[order], labels=training.labels[order])
    calibration = training.head(calibration_images)
    float_digest = _digest(module)
    # `finetune` itself checks neither the network that it starts from nor the images.
    begun = hashlib.sha256(f"{float_digest} {training.digest} {len(calibration)}".encode()).hexdigest()[:8]
    checkpoint = checkpoint_path(out.with_suffix(""), f"finetuned-{begun}")
    if epochs:
        network = cosim.finetune(
            module,
            training.real(0, len(training)),
            training.labels,
            name=out.stem,
            epochs=epochs,
            seed=seed,
            calibration_images=len(calibration),
            checkpoint=checkpoint,
            **options,
        )
    else:
        network = cosim.quantize(module, calibration.real(0, len(calibration)), name=out.stem, **options)
    network.card = {
        "command": f"cosim quantize {shlex.quote(file.name)} --dataset {dataset} --weight-bits {weight_bits} "
        f"--activation-bits {activation_bits} --weight-quantizer {weight_quantizer} "
        f"--activation-quantizer {activation_quantizer} "
        f"--per-{'channel' if per_channel else 'layer'} --calibration-images {calibration_images} --epochs {epochs} "
        f"--seed {seed} --out {shlex.quote(out.name)}",
        "onnx_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "float_sha256": float_digest,
        "dataset": test.name,
        "training_digest": training.digest,
        **network.card,
        "seed": seed,
        "left_out": module.meta["left_out"],
        **score(network, test),
        "torch": torch.__version__,
    }
    cosim.save_network(network, out, force=force)
    checkpoint.unlink(missing_ok=True)
    console.print(
        f"float {100 * network.card['accuracy_float']:.2f} %, quantized {100 * network.card['accuracy_software']:.2f} %"
    )
    console.print(f"in software: {', '.join(network.card['software']) or 'nothing'}", highlight=False)
    if module.meta["left_out"]:
        console.print(f"left out, since it changes no decision: {', '.join(module.meta['left_out'])}", highlight=False)
    console.print(f"wrote {out} and {card_path(out)}", highlight=False)


def _digest(module: fx.GraphModule) -> str:
    """SHA-256 of a loaded module's weights, which may come from files beside the ONNX file."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_fit(module: fx.GraphModule, dataset: cosim.Dataset) -> None:
    """Raise NetworkError unless a loaded module takes the data set's images and has a logit for each class."""
    takes, found = module.meta["input_shape"], tuple(dataset.images.shape[1:])
    if takes != found:
        raise NetworkError(
            f"the network takes images of shape {takes}, found {found} in {dataset.name}: choose the data set it was "
            "trained on"
        )
    check_classes(module.meta["classes"], dataset)
