"""Options and helper functions that several commands share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from typer.core import TyperCommand

from cosim.errors import ConfigError, DatasetError, NetworkError, OutputError

if TYPE_CHECKING:  # commands import the library when they need it, so that --help is fast
    import cosim
    from cosim.evaluate.plan import RunPlan

# Names of the parameters, of any command, that name inputs and outputs. The store is both, and not listed.
INPUTS = ("network", "run", "source", "file", "config", "card", "data")
OUTPUTS = ("out", "json_file")


class Command(TyperCommand):
    """A command that refuses to overwrite its inputs."""

    def invoke(self, ctx: Any) -> Any:
        """Check the command line, and execute the command."""
        check_apart(ctx.params)
        return super().invoke(ctx)


class _App(typer.Typer):
    def command(self, *arguments: Any, **options: Any) -> Any:
        return super().command(*arguments, **{"cls": Command, **options})


app = _App(
    name="cosim",
    help="Quantized neural networks on NOR-Flash compute-in-memory arrays, in the circuit simulator.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
console = Console()

NetworkName = Annotated[
    str, typer.Argument(metavar="NETWORK", help="Name of a shipped network, or a .safetensors file.")
]
ProfileName = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="Profile to start from: nominal, optimistic, realistic or harsh."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Configuration in TOML.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key, such as array.open_wordlines=9. Repeatable."),
]
DatasetName = Annotated[
    str | None,
    typer.Option("--dataset", metavar="NAME", help="mnist, digits or cifar10. Default: by card or image shape."),
]
SplitName = Annotated[
    Literal["test", "train"],
    typer.Option(
        "--split",
        metavar="NAME",
        help="test, or train: to choose a design, which is then evaluated on test.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
StoreFolder = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="Store of simulation results. Default: $COSIM_STORE or the cache."),
]
FidelityName = Annotated[str | None, typer.Option("--fidelity", metavar="NAME", help="ideal, solved, dc or tran.")]


def _leave_standard_output(path: Path | None) -> Path | None:
    """Print tables to standard error if `path` is standard output."""
    from cosim.files import is_standard_output

    console.stderr = is_standard_output(path)
    return path


JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", callback=_leave_standard_output, help="Write the figures as JSON; - for stdout."
    ),
]
PageFile = Annotated[
    Path,
    typer.Option(
        "--out", metavar="report.html", callback=_leave_standard_output, help="The page to write; - for stdout."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only estimate the run, as `cosim info` does.")]
DataFolder = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder with the files of the data set.")
]


def check_apart(given: Mapping[str, Any]) -> None:
    """Refuse outputs that would destroy an input of the command, even with --force.

    Args:
        given: values of the command's parameters by name.

    Raises:
        OutputError: an output is also an input, under any name or link; or it is a file in a folder of inputs; or it is
            the folder of an input, which would be emptied.
    """
    outputs = _existing(given[name] for name in OUTPUTS if given.get(name) is not None)
    if not outputs:
        return
    named = [given[name] for name in INPUTS if given.get(name) is not None]
    inputs = _existing([*named, *_configured_card(given)])
    for output in outputs:
        for path in inputs:
            if path.is_dir():
                clash = not output.is_dir() and output.resolve().is_relative_to(path.resolve())
            else:
                clash = output.samefile(path) or output.samefile(path.resolve().parent)
            if clash:
                raise OutputError(f"writing {output} would destroy the input {path}: choose another name")


def _configured_card(given: Mapping[str, Any]) -> list[str]:
    """The card of the command's configuration, if it has one and the card is a file of the user's."""
    from cosim.config import Config
    from cosim.device import shipped_cards

    if "overrides" not in given:
        return []
    try:
        card = Config.load(given["config"], given["overrides"] or [], given["profile"]).cell.card
    except ConfigError:
        return []  # the command tells, and writes nothing
    return [] if card in shipped_cards() else [card]


def _existing(named: Iterable[str | Path]) -> list[Path]:
    """Those of the named paths that exist, with the cards of networks."""
    from cosim.files import is_standard_output

    paths = [Path(name) for name in named]
    paths += [path.with_suffix(".json") for path in paths if path.suffix == ".safetensors"]
    return [path for path in paths if not is_standard_output(path) and os.path.exists(path)]  # noqa: PTH110, for any name


def load_settings(
    profile: str | None, config: Path | None, overrides: list[str] | None, named: Mapping[str, object] = {}
) -> cosim.Config:
    """The configuration of a command: its profile, `--config`, `--set` and other options, each on top of the former.

    Args:
        profile: the profile's name; None for the defaults.
        config: the configuration file; None for none.
        overrides: what `--set` was given.
        named: keys, as section.key, with the values of the options that stand for them; None for an option that is not
            given.
    """
    import cosim

    given = [f"{key}={value}" for key, value in named.items() if value is not None]
    return cosim.Config.load(config, [*(overrides or []), *given], profile)


def load_images(
    network: cosim.Network, dataset: str | None, data: Path | None, split: Literal["test", "train"] = "test"
) -> cosim.Dataset:
    """The images of the data set that is named by the option, or else by the network's card.

    If neither names one, the only data set with images of the network's shape is used, and a message says so.

    Raises:
        DatasetError: neither option nor card names a data set, and not exactly one has images of the network's shape.
        NetworkError: the network takes other images, or has too few logits for their classes.
    """
    import cosim
    from cosim.datasets import IMAGE_SHAPES

    named, takes = dataset or network.card.get("dataset"), tuple(network.input_shape)
    fitting = [known for known, shape in IMAGE_SHAPES.items() if shape == takes]
    if named is None and len(fitting) != 1:
        remedy = "name one with --dataset" if fitting else "use cosim.compare in Python, which takes any images"
        raise DatasetError(
            f"the card of network {network.name!r} names no data set. Data sets with images of its shape {takes}: "
            f"{', '.join(fitting) or 'none'}; {remedy}"
        )
    test = cosim.load_dataset(named or fitting[0], split, data)
    network.check_images(test.real(0, 1))
    check_classes(network(test.real(0, 1)).shape[1], test)
    if named is None:
        console.print(
            f"caution  the card names no data set: using the {split} images of {test.name}, which have the network's "
            f"shape {takes}; choose another with --dataset",
            style="yellow",
            highlight=False,
            markup=False,
        )
    return test


def check_classes(logits: int, dataset: cosim.Dataset) -> None:
    """Raise NetworkError unless there is a logit for each class of a data set."""
    classes = int(dataset.labels.max()) + 1
    if logits < classes:
        raise NetworkError(
            f"the network gives {logits} logits, but {dataset.name} has {classes} classes: choose the data set it was "
            "trained on"
        )


def use_threads(settings: cosim.Config) -> None:
    """Set the number of threads and the memory management of tensor work."""
    import torch

    torch.set_num_threads(settings.run.tensor_threads)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next tensors.

    By default, it returns large blocks to the kernel, and every tensor begins with page faults. The solver then takes
    twice as long (docs/performance.md).
    """
    import ctypes

    trim_threshold, map_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(map_threshold, 1 << 30)
        library.mallopt(trim_threshold, 2**31 - 1)


def check_memory(network: cosim.Network, settings: cosim.Config, images: int) -> None:
    """Refuse a run that does not fit into memory, before anything is simulated."""
    from cosim.evaluate.plan import plan_run

    plan_run(network, settings, images).check_memory()


def print_plan(plans: Sequence[RunPlan]) -> None:
    """Print the plan of the first run, and estimates for all runs together if they run one after the other."""
    from cosim.report.plan_table import plan_estimates, plan_layers, plan_sums

    console.print(plan_layers(plans[0]))
    console.print(plan_sums(plans[0]))
    console.print(plan_estimates(plans))
    for hint in plans[0].hints:
        console.print(f"hint  {hint}", style="yellow", highlight=False, markup=False)


def write_json(path: Path | None, figures: cosim.Comparison | RunPlan) -> None:
    """Write figures as JSON, if a file is named."""
    from cosim.files import write_whole

    if path is not None:
        write_whole(path, json.dumps(figures.to_json(), indent=2) + "\n")
