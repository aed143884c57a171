"""The training loop: cross entropy on a one-cycle schedule, with checkpoints from which it continues bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosim.errors import MachineError, NetworkError
from cosim.progress import log, progress_bar
from cosim.training.checkpoint import load_checkpoint, save_checkpoint
from cosim.training.quantizers import ClippedQuantizer, Quantizer

# L2 decay of the trained clips (PACT) if the course gives none.
CLIP_DECAY = 2e-4

_LOWER = "lower the learning rate (`rate`, or --rate-factor of cosim train)"

# Number of steps between two looks at the loss. Each look waits until the device has finished its work.
_LOOK_EVERY = 10


@dataclass(frozen=True)
class Course:
    """How a network is fitted.

    Attributes:
        title: title of the progress bar.
        epochs: number of epochs of the one-cycle schedule. Momentum goes from 0.95 to 0.85 and back.
        rate: largest learning rate of the schedule.
        batch: number of images in a step.
        optimizer: "adam", or "sgd" with Nesterov momentum.
        weight_decay: L2 decay of the weights of layers and of trained clips, and of nothing else. For clips it is at
            least `CLIP_DECAY`, without which they never shrink.
        precision: number format of the convolutions.
        norm: whether batch norm uses the statistics of the batch. With "train" it does, except in the last tenth of the
            epochs, or at least the last epoch. With "keep" it never does.
        checkpoint: file in which every epoch is saved, and from which the training continues if it exists; or None.
        identity: facts that a checkpoint must share for the training to continue from it.
    """

    title: str
    epochs: int
    rate: float
    batch: int
    optimizer: Literal["adam", "sgd"] = "adam"
    weight_decay: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    norm: Literal["train", "keep"] = "train"
    checkpoint: Path | None = None
    identity: dict[str, Any] = field(default_factory=dict)


@dataclass
class Epoch:
    """Mean loss and accuracy on the distorted training images of an epoch, and its wall time [s]."""

    loss: float
    accuracy: float
    seconds: float


@contextmanager
def repeatable(seed: int, threads: int = 1) -> Iterator[None]:
    """Fix the seed of random numbers, and the number of threads on which the rounding of sums depends.

    Results then do not depend on the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)


def pick_device(asked: str) -> torch.device:
    """The device that was asked for. "auto" is the GPU if there is one.

    Raises:
        MachineError: there is no such device.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked not in ("cpu", "cuda") or (asked == "cuda" and not torch.cuda.is_available()):
        raise MachineError(f"this machine has no device {asked!r}: choose cpu or auto")
    return torch.device(asked)


def fit(net: nn.Module, images_for: Callable[[Tensor], Tensor], labels: Tensor, course: Course) -> list[Epoch]:
    """Fit a classifier, on the device that holds the labels. It is left in evaluation mode.

    Args:
        images_for: function that maps a tensor of indices to images, float (n, channels, height, width).
        labels: (n,) classes.

    Returns:
        the history, which includes the epochs before an interruption.

    Raises:
        NetworkError: the loss is no longer finite; the checkpoint belongs to another training.
    """
    steps = math.ceil(len(labels) / course.batch)
    net.to(device=labels.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(net, course)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, course.rate, total_steps=course.epochs * steps)
    history: list[Epoch] = []
    if course.checkpoint is not None and course.checkpoint.exists():
        done = load_checkpoint(course.checkpoint, net, optimizer, schedule, course.identity)
        history = [Epoch(**epoch) for epoch in done]
    _check_ranges(net, course.title, "is zero before training: the layer's weights, or all its inputs, are zero")
    with progress_bar(course.title, course.epochs * steps, lines=False) as advance, torch.enable_grad():
        advance(len(history) * steps)
        for number in range(len(history), course.epochs):
            _set_modes(net, course, number)
            history.append(_epoch(net, images_for, labels, course, optimizer, schedule, number, advance))
            if course.checkpoint is not None:
                past = [asdict(epoch) for epoch in history]
                save_checkpoint(course.checkpoint, net, optimizer, schedule, course.identity, past)
    net.eval()
    return history


def _epoch(
    net: nn.Module,
    images_for: Callable[[Tensor], Tensor],
    labels: Tensor,
    course: Course,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    number: int,
    advance: Callable[..., None],
) -> Epoch:
    started, place = time.monotonic(), f"epoch {number + 1}/{course.epochs}"
    loss_sum, right, seen = (torch.zeros((), device=labels.device) for _ in range(3))
    batches = torch.randperm(len(labels)).to(labels.device).split(course.batch)
    for step, chosen in enumerate(batches):
        images = images_for(chosen).contiguous(memory_format=torch.channels_last)
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=course.precision == "bfloat16"):
            logits = net(images)
        loss = F.cross_entropy(logits.float(), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            loss_sum += loss * len(chosen)
            right += (logits.argmax(1) == labels[chosen]).sum()
            seen += len(chosen)
        if step % _LOOK_EVERY == 0 or step == len(batches) - 1:
            mean, accuracy = (loss_sum / seen).item(), (right / seen).item()
            if not math.isfinite(mean):
                raise NetworkError(f"{course.title} diverged in {place}: {_LOWER}.{_kept(course)}")
            advance(0, note=f"{place} loss {mean:.4f} accuracy {100 * accuracy:.1f} %")
        advance(1)
    _check_ranges(net, f"{course.title}, {place}", f"became zero or NaN: {_LOWER}.{_kept(course)}")
    epoch = Epoch(mean, accuracy, round(time.monotonic() - started, 2))
    left = (course.epochs - number - 1) * epoch.seconds
    reached = f"loss {epoch.loss:.4f} accuracy {100 * epoch.accuracy:.2f} %"
    log(f"{course.title}: {place} {reached} in {epoch.seconds:.0f} s, {left:.0f} s left")
    return epoch


def _kept(course: Course) -> str:
    kept = course.checkpoint is not None and course.checkpoint.exists()
    return f" The epochs before this one are saved in {course.checkpoint}" if kept else ""


def _check_ranges(net: nn.Module, place: str, what: str) -> None:
    """Refuse quantizers whose range is empty or not finite."""
    for name, module in net.named_modules():
        if isinstance(module, Quantizer) and not module.is_sound():
            raise NetworkError(f"{place}: the range of {name!r} {what}")


def _set_modes(net: nn.Module, course: Course, epoch: int) -> None:
    """Prepare the modules for an epoch: training mode, the statistics of batch norm, and annealing of quantizers."""
    resting = epoch >= course.epochs - max(1, course.epochs // 10)
    net.train()
    for module in net.modules():
        # The circuit uses the running statistics, so that the weights must fit them at the end.
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and (resting or course.norm == "keep"):
            module.eval()
        if isinstance(module, Quantizer):
            module.anneal(epoch / max(1, course.epochs - 1))


def _optimizer(net: nn.Module, course: Course) -> torch.optim.Optimizer:
    """Make the optimizer. Weight decay applies to weights of layers and to trained clips only."""
    weights = [module.weight for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    clips = [module.clip for module in net.modules() if isinstance(module, ClippedQuantizer)]
    known = {id(parameter) for parameter in (*weights, *clips)}
    others = [parameter for parameter in net.parameters() if id(parameter) not in known]
    groups = [
        {"params": weights, "weight_decay": course.weight_decay},
        {"params": clips, "weight_decay": max(course.weight_decay, CLIP_DECAY)},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if course.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=course.rate, momentum=0.9, nesterov=True)
    return torch.optim.Adam(groups, lr=course.rate)
