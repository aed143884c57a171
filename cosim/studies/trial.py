"""One training of a study, and its result, which is stored on disk."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cosim.training.train as training
from cosim.config import Config
from cosim.datasets import Dataset, load_dataset
from cosim.errors import InputError
from cosim.files import read_regular, write_whole
from cosim.network.integer_only import IntegerNetwork
from cosim.network.layers import Network
from cosim.network.storage import save_network
from cosim.training.partial_sum_quantizer import PartialSumQuantizer
from cosim.training.quantize import Quantization, to_network
from cosim.training.recipes import Recipe, recipe_for

# Folders of a study, from which it continues after an interruption.
FLOATS, NETWORKS, TRIALS = FOLDERS = ("float", "networks", "trials")
# The file of a result has only a few numbers.
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Trial:
    """A network trained with quantizers from a float network, and tested.

    Attributes:
        label: name of the trial, which is unique in the study and a valid file name.
        recipe: name of the recipe.
        options: options of `Quantization`, except arrays.
        arrays: configuration overrides of the arrays that digitize partial sums; none for exact sums.
        seed: seed of both trainings.
        float_epochs: number of epochs without quantizers; None for the recipe's.
        epochs: number of epochs with quantizers; None for the recipe's.
        rate_factor: factor on the learning rate with quantizers.
        noise_lsb: noise of the sense amplifiers in a second test; 0 for no second test.
        whole_numbers: whether the network is also tested in integer arithmetic (XNOR and shift).
        shown: facts of the trial that tables and plots group by.
    """

    label: str
    recipe: str
    options: dict[str, Any]
    arrays: tuple[str, ...] = ()
    seed: int = 0
    float_epochs: int | None = None
    epochs: int | None = None
    rate_factor: float = 1.0
    noise_lsb: float = 0.0
    whole_numbers: bool = False
    shown: dict[str, Any] = field(default_factory=dict)

    def plan(self) -> Recipe:
        """The recipe with this trial's schedule."""
        recipe = recipe_for(self.recipe).rescheduled(self.float_epochs, self.epochs)
        slower = recipe.rescheduled(rate_factor=self.rate_factor)
        return replace(slower, float_schedule=recipe.float_schedule)

    def quantization(self) -> Quantization:
        arrays = Config.load(None, self.arrays) if self.arrays else None
        return Quantization(**self.options, arrays=arrays)

    def float_stem(self, folder: Path) -> Path:
        """The path of the float network's checkpoint, which all trials that start from this network share."""
        schedule = json.dumps(asdict(self.plan().float_schedule), sort_keys=True)
        return folder / FLOATS / f"{self.recipe}-s{self.seed}-{hashlib.sha256(schedule.encode()).hexdigest()[:8]}"

    def identity(self) -> dict[str, Any]:
        """What identifies a result of this trial: the trial and the current recipe, in JSON's types."""
        plan = asdict(self.plan())
        del plan["build"]
        return json.loads(json.dumps({"trial": asdict(self), "plan": plan}))

    def result(self, folder: Path) -> dict[str, Any] | None:
        """The stored result, if exactly this trial was run before with the current recipe, else None.

        Raises:
            InputError: the stored result is damaged.
        """
        path = folder / TRIALS / f"{self.label}.json"
        try:
            stored = json.loads(read_regular(path, _MOST_BYTES))
            if not isinstance(stored, dict):
                raise ValueError("no object")
        except FileNotFoundError:
            return None
        except (RecursionError, ValueError) as error:
            raise InputError(f"{path} is damaged, expected the result of a trial: remove it to train again") from error
        return stored if {**stored, **self.identity()} == stored else None


def train_float(trial: Trial, folder: Path, data: Path | None, device: str) -> None:
    """Train the float network that a trial starts from, unless it has been trained already."""
    plan = trial.plan()
    stem = trial.float_stem(folder)
    stem.parent.mkdir(parents=True, exist_ok=True)
    training.fit_float(plan, load_dataset(plan.dataset, "train", data), trial.seed, stem, device=device)


def run_trial(trial: Trial, folder: Path, data: Path | None, device: str) -> dict[str, Any]:
    """Train and test. The result is returned, and written with the network into `folder`."""
    started, plan, how = time.monotonic(), trial.plan(), trial.quantization()
    images = load_dataset(plan.dataset, "train", data)
    test = load_dataset(plan.dataset, "test", data)
    float_net, _ = training.fit_float(plan, images, trial.seed, trial.float_stem(folder), device=device)
    stem = folder / NETWORKS / trial.label
    stem.parent.mkdir(parents=True, exist_ok=True)
    prepared, history = training.fit_quantized(float_net, plan, images, how, trial.seed, stem, device=device)
    network = to_network(prepared, images.real(0, 1), trial.label, {"dataset": plan.dataset, **how.facts()})
    network.float_weights = training.float_twin(float_net, images)
    result = {
        **trial.identity(),
        **trial.shown,
        "seed": trial.seed,
        **training.score(network, test),
        "training_loss": history[-1].loss,
        "training_seconds": round(sum(epoch.seconds for epoch in history)),
        "schedule": plan.schedule,
        "training_digest": images.digest,
        "torch": torch.__version__,
    }
    if trial.noise_lsb:
        result["accuracy_noisy"] = training.accuracy_on(_noisy(prepared, trial), test)
    if trial.whole_numbers:
        result["differing_logits"] = _differing(network, test)
    result["seconds"] = round(time.monotonic() - started)
    save_network(network, stem.with_name(f"{stem.name}.safetensors"))
    (folder / TRIALS).mkdir(exist_ok=True)
    write_whole(folder / TRIALS / f"{trial.label}.json", json.dumps(result, indent=2) + "\n")
    training.checkpoint_path(stem, "quantized").unlink(missing_ok=True)
    return result


def _noisy(prepared: torch.fx.GraphModule, trial: Trial) -> Callable[[Tensor], Tensor]:
    """The module in evaluation mode, but with noise before every code."""
    torch.manual_seed(trial.seed)
    for module in prepared.modules():
        if isinstance(module, PartialSumQuantizer):
            module.rounding, module.noise_lsb = "straight-through", trial.noise_lsb
            module.train()
    return prepared


def _differing(network: Network, test: Dataset) -> int:
    """Number of logits that differ if the network is computed with integers only."""
    integers, batch = IntegerNetwork(network), 250
    with torch.no_grad():
        return sum(
            int((integers(images) != network(images)).sum())
            for images in (test.real(at, at + batch) for at in range(0, len(test), batch))
        )
