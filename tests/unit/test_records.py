"""Files of runs: what is written comes back; what is damaged, foreign or made to do harm is refused with a reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import cosim
from cosim.checked import parse
from cosim.cli import main
from cosim.config import MACHINE_KEYS
from cosim.errors import ConfigError, InputError, MachineError, OutputError
from cosim.evaluate import RunRecord, compare_record
from cosim.evaluate.provenance import Provenance
from cosim.hdf5 import apart, read_file, sealed
from cosim.hdf5.sealed import seal
from cosim.report.page import render_page
from tests.conftest import make_network, random_images


@pytest.fixture(scope="module")
def record(shared_store: Path) -> RunRecord:
    """The record of a small run as transients, with every read."""
    images = (random_images(40) * 255).to(torch.uint8)
    dataset = cosim.Dataset("random", images, 255, torch.arange(40) % 3, "md5:0")
    config = ["array.open_wordlines=4", "array.bitline_res_ohm=40", "run.keep_reads=true", "run.tensor_threads=2"]
    circuit = cosim.CircuitNetwork(
        make_network(float_weights=True), cosim.Config.load(None, config), store=shared_store
    )
    return cosim.infer(circuit, dataset)


@pytest.fixture
def path(record: RunRecord, tmp_path: Path) -> Path:
    """The file of this record."""
    record.save(tmp_path / "run.h5")
    return tmp_path / "run.h5"


def change(path: Path, name: str, value: object) -> None:
    """Put another dataset, or none, in the place of one, and seal the file again as a stranger could."""
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value
    path.write_bytes(seal(path.read_bytes()))


def change_provenance(path: Path, *keys: str, to: object) -> None:
    """Set an entry of the provenance, and seal the file again."""
    with h5py.File(path, "r+") as file:
        data = json.loads(file.attrs["provenance"])
        place = data
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to
        file.attrs["provenance"] = json.dumps(data)
    path.write_bytes(seal(path.read_bytes()))


def test_what_is_read_back_is_what_was_written(record: RunRecord, path: Path) -> None:
    again = RunRecord.load(path)
    assert compare_record(again) == compare_record(record)
    assert render_page(again) == render_page(record)
    again.save(path.with_name("again.h5"))
    assert path.with_name("again.h5").read_bytes() == path.read_bytes()


def test_files_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run at"):
        RunRecord.load(tmp_path / "none.h5")
    path = tmp_path / "run.h5"
    for content in (b"", b"text", b"\0" * 600):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a run as cosim writes it"):
            RunRecord.load(path)
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "cosim-run-0"
    with pytest.raises(InputError, match="format 'cosim-run-0', expected 'cosim-run-8'"):
        RunRecord.load(path)


def test_every_damaged_byte_is_found_before_the_library_looks(path: Path) -> None:
    content = path.read_bytes()
    places = [40, 60, *np.random.default_rng(0).integers(512, len(content), 3).tolist()]
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InputError, match=r"damaged or changed .* digest .* use an undamaged copy, or repeat"):
            RunRecord.load(path)
    for whole in (content[:-1], content + b"\0", content[:513], content[:100]):
        path.write_bytes(whole)
        with pytest.raises(InputError, match="damaged or changed"):
            RunRecord.load(path)


def test_a_file_of_holes_is_not_read(record: RunRecord, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(path, 1 << 40)  # it takes no more room on the disk
    with pytest.raises(InputError, match="it has 1,099,511,627,776 bytes, expected at most 4,294,967,296"):
        RunRecord.load(path)
    monkeypatch.setattr(sealed, "LARGEST_BYTES", 1000)
    with pytest.raises(OutputError, match=r"would have [\d,]+ bytes, and files of at most 1,000 are read"):
        record.save(path)


def test_a_file_that_another_tool_wrote_has_no_seal_and_is_read(record: RunRecord, path: Path) -> None:
    path.write_bytes(b"\0" * 512 + path.read_bytes()[512:])
    assert compare_record(RunRecord.load(path)) == compare_record(record)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("labels", None, "labels is missing"),
        ("labels", np.zeros(1, np.int64), r"labels must have the shape \(images = 40\), found \(1,\)"),
        ("labels", np.full(40, 7), "labels must be below 3"),
        ("labels", np.zeros(40), "kind 'count', found the type float64"),
        ("labels", np.full(40, -1), "counts from 0"),
        ("labels", 5, r"found \(\)"),
        ("labels", "text", "labels must hold values of the kind"),
        ("logits_circuit", None, "logits_circuit is missing"),
        ("logits_circuit", np.zeros((40, 2)), "must have the shape"),
        ("logits_software", np.full((40, 3), np.nan), "logits_software must hold finite numbers"),
        ("disagreeing", np.array([99]), "images that the logits decide differently"),
        ("disagreeing_images", np.zeros((41, 1, 2, 2)), "pictures of the first of them"),
        ("levels_shift_v", np.array([1e40]), "must hold numbers within 1e[+]30"),
        ("layers", None, "the group layers is missing"),
        ("layers/0", None, "the group 0 is missing"),
        ("layers/0/groups", None, "the group groups is missing"),
        ("layers/0/groups/reads", None, "reads is missing"),
        ("layers/0/groups/conversions", np.full(3, -1), "counts from 0"),
        ("layers/0/groups/conversions", np.zeros(3, int), "must have a conversion"),
        ("layers/0/groups/reads", np.full(3, 2**62), "sum below 2.53"),
        ("layers/0/groups/error_max_lsb", np.full(3, np.nan), "numbers within"),
        ("layers/0/groups/error_rms_lsb", np.full(3, 1e300), "numbers within"),
        ("layers/0/inputs", np.zeros(2, np.int64), "must have the shape"),
        ("layers/0/densities/error", np.zeros((1, 1), np.int64), "must have the shape"),
        ("layers/0/densities/current_edges_lsb", np.zeros(3), "rising numbers"),
        ("layers/0/kept/0/lsb", np.zeros(3), "must have the shape"),
        ("layers/0/kept/0/uses", None, "uses is missing"),
        ("layers/0/kept/0/codes", np.zeros((1, 1), np.int32), "must have the shape"),
        ("layers/0/kept/1", None, "the group 1 is missing"),
        ("waveform/time_s", 0.5, r"must have the shape \(points\), found \(\)"),
        ("waveform/currents_a", np.zeros(3), "must have the shape"),
        ("labels", h5py.SoftLink("/disagreeing"), "labels is a link to elsewhere"),
        ("labels", h5py.ExternalLink("/dev/zero", "/labels"), "labels is a link to elsewhere"),
        ("labels", np.zeros(3, "i4,f8"), "labels holds neither numbers nor texts"),
        ("labels", np.zeros(3, complex), "labels holds neither numbers nor texts"),
        ("labels", h5py.Empty("f"), "labels holds neither numbers nor texts"),
    ],
)
def test_datasets_that_do_not_fit_are_named(name: str, value: object, message: str, path: Path) -> None:
    change(path, name, value)
    with pytest.raises(InputError, match=message):
        RunRecord.load(path)


@pytest.mark.parametrize(
    ("place", "name", "value", "message"),
    [
        ("/", "provenance", None, "Invalid JSON|Input should be"),
        ("/", "provenance", "[]", "Input should be"),
        ("/", "provenance", "[" * 5000, "recursion limit"),
        ("/", "provenance", 5, "Input should be"),
        ("/", "format", np.zeros(3), "expected 'cosim-run-8'"),
        ("layers/0", "lsb_units", "$(touch x)", "lsb_units: Input should be a valid number"),
        ("layers/0", "lsb_units", np.nan, "lsb_units"),
        ("layers/0", "reads", -1, "reads: Input should be greater than or equal to 0"),
        ("layers/0", "name", "\x1b[2J", "printable characters"),
        ("layers/0", "name", b"\xff\xfe", "neither number nor text|utf-8|encode"),
        ("layers/0", "kernel", 3, "kernel: Input should be a valid tuple|kernel"),
        ("layers/0", "tiles", None, "tiles: Missing|tiles: Field required|tiles"),
        ("layers/0", "extra", 1, "extra: Unexpected keyword argument"),
        ("layers/0", "tiles", h5py.Empty("f"), "the attribute tiles of layers/0 is empty or too long"),
        ("audit", "decks", 2.5, "decks: Input should be a valid integer"),
        ("waveform", "title", 7, "title: Input should be a valid string"),
    ],
)
def test_attributes_that_do_not_fit_are_named(place: str, name: str, value: object, message: str, path: Path) -> None:
    with h5py.File(path, "r+") as file:
        if value is None:
            del file[place].attrs[name]
        else:
            file[place].attrs[name] = value
    path.write_bytes(seal(path.read_bytes()))
    with pytest.raises(InputError, match=message):
        RunRecord.load(path)


def make_huge(file: h5py.File) -> None:
    file.create_dataset("labels", (1 << 40,), np.int64, chunks=(1 << 20,), compression="gzip")


def make_bomb(file: h5py.File) -> None:
    file.create_dataset("labels", data=np.zeros(15_000_000), compression="gzip", compression_opts=9)


def make_virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((40,), np.int64)
    layout[...] = h5py.VirtualSource("other.h5", "labels", shape=(40,))
    file.create_virtual_dataset("labels", layout)


def make_external(file: h5py.File) -> None:
    file.create_dataset("labels", (40,), np.int64, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def make_filtered(file: h5py.File) -> None:
    file.create_dataset("labels", data=np.zeros(40, np.int64), chunks=(40,), compression="lzf")


def make_cycle(file: h5py.File) -> None:
    file["layers/0/again"] = file["layers"]


def make_unprintable(file: h5py.File) -> None:
    file["a\x1b[2J"] = h5py.SoftLink("/labels")


def make_deep(file: h5py.File) -> None:
    file.create_group("/".join(["deep"] * 500))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_huge, "labels claims more data than a file of .* bytes can hold"),
        (make_bomb, "labels claims more data than"),
        (make_virtual, "the data of labels lie in another file"),
        (make_external, "the data of labels lie in another file"),
        (make_filtered, "labels is packed with an unknown filter"),
        (make_cycle, "is also in another place"),
        (make_deep, "is a link to elsewhere, or too deep"),
        (make_unprintable, r"a\?\[2J is neither|a\?\[2J is a link"),
    ],
)
def test_what_no_file_of_ours_holds_is_refused_before_it_is_read(make: Any, message: str, path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["labels"]
        make(file)
    path.write_bytes(seal(path.read_bytes()))
    with pytest.raises(InputError, match=message):
        RunRecord.load(path)


def reads_with(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Read a file with another reader, which a damaged file may turn the true one into."""
    (tmp_path / "other.py").write_text(script)
    (tmp_path / "file.h5").write_bytes(b"content")
    monkeypatch.setattr(apart.reader, "__file__", str(tmp_path / "other.py"))
    read_file(tmp_path / "file.h5")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the HDF5 library failed on it .exit status -11"),
        ("print('{', end='')", "the HDF5 library failed on it .exit status 0"),
        (
            """print('{"attributes": {}, "texts": {}, "arrays": [["a", "<f8", [9]]]}')""",
            "the HDF5 library failed on it",
        ),
        ("import time; time.sleep(60)", "takes too long to read"),
        (
            "from cosim.hdf5 import reader\nreader._LEAST_SECONDS = 1\nreader._limit(0)\nwhile True: pass",
            "takes too long to read",
        ),
        (
            "import sys\nfrom cosim.hdf5 import reader\n"
            "reader._check_seal = lambda path: bytes(1 << 34)\nreader.main()",
            "it needs more memory than such a file may",
        ),
    ],
)
def test_a_reader_that_dies_or_hangs_is_told_as_a_damaged_file(
    script: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(apart, "_WAITING", 1)
    with pytest.raises(ValueError, match=message):
        reads_with(script, monkeypatch, tmp_path)


def test_a_python_that_cannot_be_started_is_named(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(path))
    with pytest.raises(MachineError, match=r"cannot start .* to read .*; repair Python"):
        RunRecord.load(path)


def probe(path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> object:
    """The exit status of probing a run."""
    words = ["cosim", "probe", path, "--image", 0, "--layer", "conv1", "--at", "1,1", "--channel", 0, *more]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_no_program_that_a_record_names_is_started(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, started = tmp_path / "program", tmp_path / "started"
    program.write_text(f"#!/bin/sh\ntouch '{started}'\necho ngspice-45\n")
    program.chmod(0o755)
    monkeypatch.setenv("COSIM_STORE", str(tmp_path / "store"))
    change_provenance(path, "network_source", to="digits-w4a4")
    change_provenance(path, "dataset", to="digits")
    change_provenance(path, "config", "run", "ngspice", to=str(program))
    assert probe(path, monkeypatch) == 2
    assert "run.ngspice decides how a machine computes, and is not taken from a record" in capsys.readouterr().err
    assert not started.exists()


@pytest.mark.parametrize("key", MACHINE_KEYS)
def test_a_record_tells_keys_of_the_machine_and_gives_none(key: str, record: RunRecord, path: Path) -> None:
    came = RunRecord.load(path).provenance
    assert came.machine["run.tensor_threads"] == 2
    assert came.machine.keys() == set(MACHINE_KEYS)
    assert came.config.value(key) == cosim.Config().value(key)
    section, _, name = key.partition(".")
    change_provenance(path, "config", section, name, to=record.provenance.machine[key])
    with pytest.raises(InputError, match=f"{key} decides how a machine computes"):
        RunRecord.load(path)


def test_the_machine_of_a_probe_is_that_of_the_command() -> None:
    circuit = cosim.Config.load(None, ["adc.bits=4"])
    machine = cosim.Config.load(None, ["run.ngspice=/opt/ngspice", "run.workers=3", "adc.bits=6"])
    probed = circuit.on_machine(machine)
    assert (probed.run.ngspice, probed.run.workers, probed.adc.bits) == ("/opt/ngspice", 3, 4)


def test_a_provenance_is_checked_entry_by_entry(record: RunRecord) -> None:
    written = record.provenance.to_json()
    assert Provenance.from_json(json.dumps(written)) == record.provenance
    assert written["versions"]["engine"].startswith("ngspice-")
    for key, value, message in (
        ("images", "40", "images: Input should be a valid integer"),
        ("images", True, "images: Input should be a valid integer"),
        ("chip", {"charge_loss": "much"}, "chip.charge_loss"),
        ("usage", {"deks": 3}, "usage.deks: Unexpected keyword argument"),
        ("usage", {"decks": -3}, "usage.decks: Input should be greater than or equal to 0"),
        ("usage", [], "usage"),
        ("versions", {"cosim": 1}, "versions.cosim: Input should be a valid string"),
        ("seconds", {"tables": None}, "seconds.tables: Input should be a valid number"),
        ("seconds", {"tables": float("nan")}, "seconds.tables: Input should be a finite number"),
        ("wall_seconds", 1e308, "wall_seconds: Input should be less than"),
        ("network", "\x1b[2J", "network: must have printable characters only"),
        ("date", "\ud800", "Invalid JSON"),
        ("unknown", 1, "unknown: Unexpected keyword argument"),
    ):
        with pytest.raises(ValueError, match=message):
            Provenance.from_json(json.dumps(written | {key: value}))
    with pytest.raises(ConfigError, match="unknown section 'arrays'"):
        Provenance.from_json(json.dumps(written | {"config": {"arrays": {}}}))
    del written["date"]
    with pytest.raises(ValueError, match="date: Field required"):
        Provenance.from_json(json.dumps(written))


def test_names_that_cannot_be_printed_come_back_with_marks(record: RunRecord) -> None:
    network, images = make_network(), cosim.Dataset("a\nb", torch.zeros(1, 1, 6, 6), 1, torch.zeros(1), digest="")
    network.source = "dir\x1b/net.safetensors"
    came = Provenance.of(network, images, cosim.Config(), "ideal")
    assert (came.dataset, came.network_source) == ("a?b", "dir?/net.safetensors")
    assert Provenance.from_json(json.dumps(came.to_json())) == came


def test_parse_says_where_and_what() -> None:
    with pytest.raises(ValueError, match=r"a\.1: Input should be a valid integer, found 'b'"):
        parse(dict[str, list[int]], '{"a": [1, "b"]}')


def test_a_reader_keeps_to_limits_that_are_lower_than_its_own(path: Path) -> None:
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (20, 20));"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30));"
        f"from pathlib import Path; from cosim.hdf5 import read_file; read_file(Path({str(path)!r}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
