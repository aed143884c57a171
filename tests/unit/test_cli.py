"""The command line: what it does, its exit status, and that the docs speak of every part of it."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cosim.cli import app, main
from cosim.datasets import find_mnist
from cosim.network import save_network
from tests.conftest import make_network

ROOT = Path(__file__).parents[2]


def cosim(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person would, without a terminal."""
    return subprocess.run(
        [sys.executable, "-c", "from cosim.cli import main; main()", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COSIM_STORE": str(cwd / "store"), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run of the digits network."""
    folder = tmp_path_factory.mktemp("cli")
    done = cosim(
        "infer", "digits-w4a4", "--images", 20, "--out", "run.h5", "--json", "run.json", "--fidelity", "dc", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_infer_prints_tables_and_writes_the_agreed_keys(folder: Path) -> None:
    figures = json.loads((folder / "run.json").read_text())
    agreed = (
        "images accuracy_float accuracy_software accuracy_circuit disagreements reads patterns_simulated "
        "patterns_reused decks ngspice_seconds wall_seconds audit_max_error_lsb layers "
        "certificate_reads certificate_max_error_lsb certificate_codes_differing certificate_share"
    )
    assert set(agreed.split()) <= figures.keys()
    assert figures["images"] == 20
    assert figures["decks"] > 0
    assert [layer["name"] for layer in figures["layers"]] == ["conv1", "conv2"]


def test_a_second_run_simulates_nothing_and_says_the_same(folder: Path) -> None:
    done = cosim("infer", "digits-w4a4", "--images", 20, "--json", "again.json", "--fidelity", "dc", cwd=folder)
    assert done.returncode == 0
    assert done.stderr == "", "no progress bars without a terminal"
    first, again = (json.loads((folder / name).read_text()) for name in ("run.json", "again.json"))
    assert again["decks"] == again["patterns_simulated"] == 0
    # All but the four reads that programmed the cell: what came of them is kept as a whole.
    assert again["patterns_reused"] == first["patterns_simulated"] + first["patterns_reused"] - 4
    assert again["layers"] == first["layers"]


def test_compare_and_report_need_no_simulator(folder: Path) -> None:
    done = cosim("compare", "run.h5", "--json", "compared.json", cwd=folder, PATH="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "compared.json").read_text()) == json.loads((folder / "run.json").read_text())
    done = cosim("report", "run.h5", "--out", "run.html", cwd=folder, PATH="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert "digits-w4a4" in (folder / "run.html").read_text()


def test_demo_without_files_uses_the_bundled_digits(folder: Path) -> None:
    arguments = ("demo", "--images", 10, "--set", "run.fidelity=dc")
    hidden = {"COSIM_DATA": "", "XDG_DATA_HOME": str(folder)}
    for name in ("demo", "demo-2"):
        done = cosim(*arguments, cwd=folder, **hidden)
        assert done.returncode == 0, done.stderr
        assert f"runs/{name}/report.html" in done.stdout
        assert (folder / "runs" / name / "run.h5").is_file()
    if find_mnist() is None:
        assert "images of digits" in done.stdout


def test_netlist_writes_decks_and_manifest(folder: Path) -> None:
    done = cosim("netlist", "digits-w4a4", "--out", "build", "--set", "array.open_wordlines=4", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((folder / "build" / "manifest.json").read_text())["decks"]) == 3 + 18


def test_characterize_prints_tables_and_writes_a_folder(folder: Path) -> None:
    done = cosim("characterize", "--card", "sonos65", "--set", "read.wordline_v=2.0", "--out", "cell", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "cell of the card sonos65" in done.stdout
    summary = json.loads((folder / "cell" / "summary.json").read_text())
    assert len(summary["levels"]) == 16
    assert {"transfer.csv", "corners.png"} < {path.name for path in (folder / "cell").iterdir()}


def test_program_prints_a_table_and_writes_a_folder(folder: Path) -> None:
    settings = ["--set", "programming.method=pulses", "--set", "corner.temperature_c=85"]
    done = cosim("program", "--cells", 100, *settings, "--out", "cells", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "pulses a cell" in done.stdout
    assert "…" not in done.stdout, "the table fits a terminal of 80 columns"
    assert len(json.loads((folder / "cells" / "summary.json").read_text())["levels"]) == 16


def test_train_writes_network_and_card(folder: Path) -> None:
    from cosim.cli.networks import train
    from cosim.network import load_network

    schedule = {"float_epochs": 4, "epochs": 3, "rate_factor": 0.5}
    train("digits", folder / "mine.safetensors", weight_bits=3, activation_bits=2, seed=4, **schedule)
    network = load_network(folder / "mine.safetensors")
    assert (
        network.card["command"]
        == "cosim train digits --weight-bits 3 --activation-bits 2 --float-epochs 4 --epochs 3 --rate-factor 0.5 "
        "--seed 4 --out mine.safetensors"
    )
    assert network.card["epochs"] == {"float": 4, "quantized": 3}
    assert network.name == "digits-w3a2"
    assert [layer.weight_bits for layer in network.layers] == [3, 3, 3]
    assert network.card["accuracy_software"] > 0.6


def test_store_shows_and_clears(folder: Path) -> None:
    place = folder / "another"
    shutil.copytree(folder / "store", place)
    shown = cosim("store", "--store", place, cwd=folder)
    assert str(place) in shown.stdout.replace("\n", "")
    assert "MiB" in shown.stdout
    cleared = cosim("store", "--store", place, "--clear", cwd=folder)
    assert "cleared" in cleared.stdout
    assert not list((place / "results").iterdir())


FOLDER_COMMANDS = (
    "demo", "netlist digits-w4a4", "characterize", "program", "study bits", "sweep digits-w4a4 --over adc.bits=4",
    "search digits-w4a4 --design adc.bits=4,5 --seeds 1 --images 5",
    "attribute digits-w4a4", "probe digits-w4a4 --image 0 --layer conv1 --at 0,0 --channel 0",
)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("infer digits-w4a5", "unknown network 'digits-w4a5': did you mean 'digits-w4a4'?"),
        ("infer digits-w4a4 --dataset digit", "unknown data set 'digit': did you mean 'digits'?"),
        ("infer digits-w4a4 --set adc.bit=4", "unknown key adc.bit: did you mean 'bits'?"),
        ("infer digits-w4a4 --set run.layers=conv3", "has no layer 'conv3'"),
        ("infer digits-w4a4 --fidelity spice", "run.fidelity: Input should be 'ideal', 'solved', 'dc' or 'tran'"),
        ("demo --fidelity spice", "run.fidelity: Input should be 'ideal'"),
        ("netlist digits-w4a4 --out decks --fidelity spice", "run.fidelity: Input should be 'ideal'"),
        ("sweep digits-w4a4 --out grid --seeds 2 --fidelity spice", "run.fidelity: Input should be 'ideal'"),
        (
            "search digits-w4a4 --design adc.bits=4,5 --seeds 2 --images 5 --out found --fidelity spice",
            "run.fidelity: Input should be 'ideal'",
        ),
        ("attribute digits-w4a4 --fidelity spice", "run.fidelity: Input should be 'ideal'"),
        (
            "probe digits-w4a4 --image 0 --layer conv1 --at 1,1 --channel 0 --fidelity spice",
            "run.fidelity: Input should",
        ),
        ("infer digits-w4a4 --images 0", "ask for 1 to 449, not 0"),
        ("infer digits-w4a4 --images 5000", "ask for 1 to 449, not 5000"),
        ("infer digits-w4a4 --set array.wordlines=8", "does not fit array.wordlines = 8"),
        ("infer digits-w4a4 --set array.open_wordlines=300", "does not fit array.wordlines = 256"),
        ("infer digits-w4a4 --set cell.card=none", "no card 'none'"),
        ("infer digits-w4a4 --set cell.full_scale_a=1e-4", "the card reaches"),
        ("infer digits-w4a4 --set run.ngspice=no-ngspice", "apt-get install ngspice"),
        ("infer digits-w4a4 --config none.toml", "cannot read the configuration"),
        ("infer mnist-w4a4 --dataset digits", "takes images of shape (1, 28, 28), found (1, 8, 8)"),
        ("infer mnist-w4a4 --dataset mnist --data .", "found neither: name the MNIST folder with --data"),
        ("infer digits-w4a4 --images 5 --out run.h5", "run.h5 exists already"),
        ("infer digits-w4a4 --images 5 --out none/run.h5", "is not a directory"),
        ("infer digits-w4a4 --images 5 --json run.json", "run.json exists already"),
        ("infer run.json", "is not a safetensors file"),
        ("compare run.json", "is not a run as cosim writes it"),
        ("compare none.h5", "no run at none.h5"),
        ("report run.h5 --out run.json", "run.json exists already"),
        ("train digit --out x.safetensors", "did you mean 'digits'?"),
        ("train digits --out x.bin", "written as .safetensors"),
        ("train digits --weight-bits 9 --out x.safetensors", "weight bits must be 1 to 8, found 9"),
        ("infer digits-w4a4 --images 5 --out same.h5 --json same.h5", "is named for two outputs"),
        ("netlist digits-w4a4 --out store", "is not empty"),
        ("demo --images 5 --out store", "is not empty: choose another folder, or pass --force"),
        ("netlist digits-w4a4", "Missing option '--out'"),
        ("characterize --card nor66 --out other", "no card 'nor66': did you mean 'nor65'"),
        ("characterize --out other --set cell.full_scale_a=1e-4", "the card reaches"),
        ("characterize --out store", "is not empty: choose another folder, or pass --force"),
        ("demos", "No such command 'demos'"),
        *(
            (f"{command} --out run.json", "run.json is a file, but a folder is needed there: choose another name")
            for command in FOLDER_COMMANDS
        ),
        *(
            (f"{command} --out run.json/below", "run.json is a file, so that no folder can be made in it: choose")
            for command in FOLDER_COMMANDS
        ),
        *(
            (f"{command} --out {'n' * 300}", "File name too long; check the path and its permissions")
            for command in FOLDER_COMMANDS
        ),
        ("study partial-sums-cifar10 --data . --out new/studies", "data_batch_1.bin: No such file or directory; name"),
        ("sweep mnist-w4a4 --over adc.bits=4 --data . --out new/sweep", "found neither: name the MNIST folder"),
        ("attribute mnist-w4a4 --data . --out new/effects", "found neither: name the MNIST folder"),
    ],
)
def test_wrong_input_ends_with_status_2_and_a_reason(
    arguments: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COSIM_STORE", str(folder / "store"))
    monkeypatch.setattr(sys, "argv", ["cosim", *arguments.split()])

    def found() -> dict[Path, int | None]:
        paths = [path for path in folder.rglob("*") if "store" not in path.parts]
        return {path: path.stat().st_mtime_ns if path.is_file() else None for path in paths}

    before = found()
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert found() == before, "nothing may be written, and no folder made"


def test_a_folder_that_cannot_be_written_to_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # permissions do not bind the superuser
    for arguments in ("study bits --out below", "train digits --out x.safetensors", "infer digits-w4a4 --out x.h5"):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["cosim", *arguments.split()])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert f"{folder} cannot be written to: change its permissions, or" in capsys.readouterr().err


def test_a_file_in_the_way_is_not_told_as_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise PermissionError(13, "Permission denied", "some/file")

    monkeypatch.setattr("cosim.cli.app", fail)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == (
        "error: cannot use some/file: Permission denied; check the path and its permissions\n"
    )


def test_memory_that_is_used_up_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr("cosim.cli.app", fail)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err.startswith("error: out of memory: use fewer images")


def test_a_failing_simulator_ends_with_status_3(folder: Path) -> None:
    done = cosim("infer", "digits-w4a4", "--images", 5, "--set", "run.timeout_s=0.001", "--store", "empty", cwd=folder)
    assert done.returncode == 3
    assert "no answer within 0.001 s" in done.stderr
    assert "repeat it: cd " in done.stderr


def test_a_file_size_limit_is_told_as_a_full_disk(folder: Path) -> None:
    """Writing stops as it does on a full disk; the file that was there stays as it was."""
    (folder / "precious.h5").write_bytes(b"precious")
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "sys.argv[1:] = 'infer digits-w4a4 --images 20 --fidelity dc --out precious.h5 --force'.split();"
        "from cosim.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env={**os.environ, "COSIM_STORE": str(folder / "store")},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "no room to write precious.h5" in done.stderr
    assert (folder / "precious.h5").read_bytes() == b"precious"
    assert not list(folder.glob(".precious*"))


@pytest.mark.skipif(find_mnist() is None, reason="MNIST is not here: put its files in data/mnist or set $COSIM_DATA")
def test_mnist_on_the_circuit(folder: Path) -> None:
    """The shipped network on 300 images; the whole test set is a benchmark (docs/performance.md)."""
    done = cosim(
        "infer", "mnist-w4a4", "--data", find_mnist(), "--images", 300, "--json", "mnist.json", "--fidelity", "dc",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "mnist.json").read_text())
    assert figures["accuracy_software"] >= 0.98
    assert figures["accuracy_circuit"] >= figures["accuracy_software"] - 0.01
    assert figures["audit_max_error_lsb"] < 0.01


@pytest.mark.parametrize("command", [command.callback.__name__ for command in app.registered_commands])
def test_every_command_is_in_the_readme_and_helps(command: str, folder: Path) -> None:
    text = (ROOT / "README.md").read_text()
    assert f"cosim {command}" in text or f"script/{command}" in text
    shown = cosim(command, "--help", cwd=folder, COLUMNS="80")
    assert shown.returncode == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_help_is_quick_because_it_does_not_import_torch() -> None:
    script = "import sys; import cosim.cli; assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_configuration_page_is_the_configuration() -> None:
    render = runpy.run_path(str(ROOT / "docs" / "make_config.py"))["render"]
    assert (ROOT / "docs" / "formats" / "config.md").read_text() == render(), "run docs/make_config.py"


def test_the_readmes_python_example_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    shutil.copy(ROOT / "cosim.toml", folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COSIM_STORE", str(folder / "store"))
    exec(example.replace('"build/"', '"example/"'), {})
    assert (folder / "example" / "manifest.json").is_file()


def test_the_shipped_configuration_is_the_default() -> None:
    from cosim.config import Config

    assert Config.load(ROOT / "cosim.toml") == Config()


def test_public_names_can_be_used() -> None:
    import cosim as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Circuit'"):
        _ = package.Circuit


@pytest.mark.parametrize(
    ("shape", "outputs", "status", "message"),
    [
        (
            (1, 8, 8),
            10,
            0,
            "caution  the card names no data set: using the test images of digits, which have the network's",
        ),
        ((1, 8, 8), 4, 2, "the network gives 4 logits, but digits has 10 classes: choose the data set"),
        ((2, 8, 8), 10, 2, "names no data set. Data sets with images of its shape (2, 8, 8): none; use cosim.compare"),
    ],
)
def test_the_data_set_of_a_card_that_names_none(
    shape: tuple[int, int, int], outputs: int, status: int, message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import torch
    from torch import nn

    from cosim.training import quantize

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(shape[0], 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, outputs)
    )
    save_network(quantize(module, torch.rand(8, *shape)), tmp_path / "net.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COSIM_STORE", str(tmp_path / "store"))
    for arguments in ("infer net.safetensors --images 5 --fidelity ideal", "attribute net.safetensors --images 5"):
        if arguments.startswith("attribute") and status == 0:
            continue  # simulates
        monkeypatch.setattr(sys, "argv", ["cosim", *arguments.split()])
        with pytest.raises(SystemExit) as end:
            main()
        assert (end.value.code or 0) == status
        told = capsys.readouterr()
        assert message in " ".join((told.err if status else told.out).split()).replace("caution ", "caution  ")


def test_saving_a_network_needs_the_right_suffix(tmp_path: Path) -> None:
    from cosim.errors import NetworkError

    with pytest.raises(NetworkError, match=r"written as \.safetensors"):
        save_network(make_network(), tmp_path / "net.pt")
