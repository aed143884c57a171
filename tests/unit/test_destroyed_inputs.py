"""No command writes over what it reads, by whatever name it is given and with --force as well."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from pathlib import Path

import pytest

import cosim
from cosim.cli import app, main
from cosim.cli.shared import INPUTS, OUTPUTS
from cosim.network import save_network
from tests.conftest import make_network, random_images


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a network, a configuration, a card and data."""
    folder = tmp_path_factory.mktemp("inputs")
    images = cosim.Dataset("digits", random_images(3), 1, cosim.load_dataset("digits").labels[:3] % 3, "md5:0")
    ideal = cosim.Config.load(None, ["run.fidelity=ideal"])
    cosim.infer(cosim.CircuitNetwork(make_network(), ideal), images).save(folder / "run.h5")
    save_network(make_network(), folder / "net.safetensors")
    (folder / "chip.toml").write_text("[adc]\nbits = 6\n")
    (folder / "own.toml").write_text('[cell]\ncard = "cell.card"\n')
    (folder / "cell.card").write_text(".model cell nmos level=14\n")
    (folder / "model.onnx").write_bytes(b"onnx")
    (folder / "data").mkdir()
    (folder / "data" / "train-images").write_bytes(b"images")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        "report run.h5 --out run.h5",
        "report run.h5 --out ./data/../run.h5",
        "report run.h5 --out soft.h5",
        "report soft.h5 --out run.h5",
        "report run.h5 --out hard.h5",
        "compare run.h5 --json run.h5",
        "compare run.h5 --json soft.h5",
        "probe run.h5 --image 0 --layer conv1 --at 0,0 --channel 0 --out .",
        "infer net.safetensors --out net.safetensors",
        "infer net.safetensors --json net.json",
        "infer digits-w4a4 --config chip.toml --out chip.toml",
        "infer digits-w4a4 --config chip.toml --json chip.toml",
        "infer digits-w4a4 --data data --out data/train-images",
        "infer digits-w4a4 --set cell.card=cell.card --out cell.card",
        "infer digits-w4a4 --set cell.card='./cell.card' --out cell.card",
        "infer digits-w4a4 --set cell.card\t=\tcell.card --json cell.card",
        "infer digits-w4a4 --config own.toml --out cell.card",
        "info digits-w4a4 --config own.toml --profile realistic --json cell.card",
        "info net.safetensors --json net.safetensors",
        "quantize model.onnx --dataset digits --out net.safetensors --data .",
        "train digits --config net.json --partial-sums straight-through --out net.safetensors",
        "netlist net.safetensors --out .",
        "netlist digits-w4a4 --set cell.card=cell.card --out .",
        "characterize --card cell.card --out .",
        "demo --config chip.toml --out .",
        "sweep net.safetensors --over adc.bits=4 --out .",
        "search net.safetensors --design adc.bits=4,5 --seeds 1 --images 5 --out .",
        "attribute net.safetensors --out .",
    ],
)
def test_an_output_that_is_an_input_is_refused(
    arguments: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    shutil.copytree(inputs, here)
    (here / "soft.h5").symlink_to("run.h5")
    os.link(here / "run.h5", here / "hard.h5")
    monkeypatch.chdir(here)
    monkeypatch.setenv("COSIM_STORE", str(tmp_path / "store"))
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    for force in ([], ["--force"]):
        monkeypatch.setattr(sys, "argv", ["cosim", *arguments.split(" "), *force])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert "would destroy the input" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_other_outputs_are_written(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(inputs, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for name in ("figures.json", "chip.toml"):
        monkeypatch.setattr(sys, "argv", ["cosim", "compare", "run.h5", "--json", name, "--force"])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert Path(name).read_text().startswith("{")


@pytest.mark.parametrize("command", app.registered_commands, ids=lambda command: command.callback.__name__)
def test_every_path_of_a_command_is_known_as_input_or_output(command: object) -> None:
    signature = inspect.signature(command.callback)  # type: ignore[attr-defined]
    paths = {name for name, each in signature.parameters.items() if "Path" in str(each.annotation)}
    named = {name for name, each in signature.parameters.items() if each.annotation in ("ConfigFile", "DataFolder",
             "JsonFile", "PageFile", "NetworkName")}  # fmt: skip
    assert paths | named <= {*INPUTS, *OUTPUTS}
