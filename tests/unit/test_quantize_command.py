"""`cosim quantize`: a network from an ONNX file, and what the command says about wrong input."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cosim
from cosim.cli import main
from cosim.training import fitting


def digits_net(seed: int = 0) -> nn.Module:
    """A small network, trained for a second."""
    training = cosim.load_dataset("digits", "train")
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)
    logits = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(logits.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(logits(training.real(0, len(training))), training.labels).backward()
        optimizer.step()
    return nn.Sequential(*layers, nn.Softmax(1)).eval()


def command(arguments: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["cosim", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with networks that fit the digits and that do not."""
    folder = tmp_path_factory.mktemp("onnx")
    for name, module, shape in (
        ("net", digits_net(), (1, 1, 8, 8)),
        ("other", digits_net(seed=1), (1, 1, 8, 8)),
        ("five", nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), (1, 1, 8, 8)),
        ("wide", nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), (1, 1, 28, 28)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(module, (torch.zeros(shape),), folder / f"{name}.onnx", dynamo=False)
    return folder


def test_the_command_quantizes_and_finetunes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--weight-bits 3 --weight-quantizer asymmetric --per-layer --calibration-images 100 --seed 4"
    assert command(f"quantize net.onnx --dataset digits {options} --out plain.safetensors", folder, monkeypatch) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "in software: relu_1_Relu, maxpool_2_MaxPool, flatten_3_Flatten" in shown
    assert "left out, since it changes no decision: /5/Softmax" in shown
    plain = cosim.load_network(folder / "plain.safetensors")
    assert plain.card["command"] == (
        "cosim quantize net.onnx --dataset digits --weight-bits 3 --activation-bits 4 --weight-quantizer asymmetric "
        "--activation-quantizer step --per-layer --calibration-images 100 --epochs 0 --seed 4 --out plain.safetensors"
    )
    assert (plain.name, plain.card["dataset"], plain.card["calibration_images"]) == ("plain", "digits", 100)
    assert [layer.weight_bits for layer in plain.layers] == [3, 3]
    assert command("quantize net.onnx --dataset digits --epochs 3 --out tuned.safetensors", folder, monkeypatch) == 0
    card = json.loads((folder / "tuned.json").read_text())["facts"]
    assert card["method"] == "fine-tuned"
    assert min(card["accuracy_float"], card["accuracy_software"]) > 0.85
    assert 0.7 < plain.card["accuracy_software"] < card["accuracy_software"]
    assert f"quantized {100 * card['accuracy_software']:.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weights", "activations", "bits"), [("odd", "clip", 2), ("power-of-two", "expected", 3), ("threshold", "step", 4)]
)
def test_the_command_takes_every_quantizer(
    weights: str, activations: str, bits: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = f"--weight-quantizer {weights} --activation-quantizer {activations}"
    bit_options = f"--weight-bits {bits} --activation-bits {bits} --calibration-images 50 --force"
    line = f"quantize net.onnx --dataset digits {options} {bit_options} --out kind.safetensors"
    assert command(line, folder, monkeypatch) == 0
    card = cosim.load_network(folder / "kind.safetensors").card
    assert (card["weight_quantizer"], card["activation_quantizer"]) == (weights, activations)
    assert options in card["command"]


def test_an_interrupted_fine_tuning_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "quantize net.onnx --dataset digits --epochs 3 --calibration-images 100 --out"
    assert command(f"{line} whole.safetensors", folder, monkeypatch) == 0
    save, epochs = fitting.save_checkpoint, []

    def interrupted(*arguments: Any) -> None:
        save(*arguments)
        epochs.append(arguments)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "save_checkpoint", interrupted)
    assert command(f"{line} halves.safetensors", folder, monkeypatch) == 130
    assert "the next run continues" in capsys.readouterr().err
    (kept,) = folder.glob("halves.finetuned-*.checkpoint")
    # Another float network begins anew, whatever was left behind.
    assert command(f"{line.replace('net', 'other')} halves.safetensors", folder, monkeypatch) == 0
    assert len(epochs) == 5
    assert kept.exists()
    assert command(f"{line} halves.safetensors --force", folder, monkeypatch) == 0
    assert len(epochs) == 6, "the last epoch alone"
    assert not list(folder.glob("*.checkpoint"))
    assert (folder / "halves.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("net.onnx --dataset digits --activation-quantizer pact --out x.safetensors", "activation_quantizer must be"),
        ("none.onnx --dataset digits --out x.safetensors", "no ONNX file at none.onnx"),
        ("net.onnx --dataset digit --out x.safetensors", "did you mean 'digits'?"),
        ("net.onnx --dataset digits --out x.bin", "written as .safetensors"),
        (
            "wide.onnx --dataset digits --out x.safetensors",
            "takes images of shape (1, 28, 28), found (1, 8, 8) in digits",
        ),
        ("five.onnx --dataset digits --out x.safetensors", "gives 5 logits, but digits has 10 classes"),
        ("net.onnx --dataset digits --calibration-images 9999 --out x.safetensors", "ask for 1 to 1348, not 9999"),
        ("net.onnx --dataset digits --weight-bits 9 --out x.safetensors", "bits must be 1 to 8, found 9"),
        ("net.onnx --dataset digits --weight-quantizer ternary --out x.safetensors", "weight_quantizer must be one of"),
    ],
)
def test_the_command_on_wrong_input(
    arguments: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(f"quantize {arguments}", folder, monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert not list(folder.glob("x.*"))
