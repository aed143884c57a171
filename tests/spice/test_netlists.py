"""Decks on disk: each runs by hand from its folder, and gives the currents that cosim uses."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cosim.config import Config
from cosim.errors import ConfigError, OutputError
from cosim.evaluate import CircuitNetwork
from cosim.network import load_network
from cosim.spice.raw import read_raw
from tests.conftest import make_network, random_images

EXAMPLES = Path(__file__).parents[2] / "netlists" / "examples"


def circuit_for(store: Path, *settings: str) -> CircuitNetwork:
    return CircuitNetwork(
        make_network(), Config.load(None, ["array.open_wordlines=5", "trim.method=none", *settings]), store=store
    )


@pytest.mark.parametrize("fidelity", ["dc", "tran"])
def test_every_deck_runs_by_hand_and_agrees_with_the_tables(fidelity: str, shared_store: Path, tmp_path: Path) -> None:
    circuit = circuit_for(shared_store, f"run.fidelity={fidelity}")
    manifest = json.loads(circuit.write_netlists(tmp_path / "build").read_text())
    circuit(random_images(4))
    assert len(manifest["decks"]) == len(list((tmp_path / "build").glob("*.cir"))) == 2 + 3
    for entry in manifest["decks"]:
        subprocess.run(["ngspice", "-b", entry["file"]], cwd=tmp_path / "build", capture_output=True, check=True)
        raw = read_raw(tmp_path / "build" / entry["raw"])
        assert raw.variables[1:] == tuple(f"i({source})" for source in entry["bitlines"])
        reads = circuit.arrays[entry["layer"]].table.reads(entry["group"])
        for pattern, lsb in zip(reads.patterns[:5], reads.lsb, strict=False):
            at = entry["sample_at"][entry["patterns"].index(pattern)]
            by_hand = [-np.interp(at, raw.values[:, 0], values) for values in raw.values.T[1:]]
            np.testing.assert_allclose(np.array(by_hand) / manifest["unit_a"], lsb, atol=1e-4)


def test_a_deck_says_what_it_is(shared_store: Path, tmp_path: Path) -> None:
    circuit_for(shared_store).write_netlists(tmp_path)
    text = (tmp_path / "conv2_g1_0.cir").read_text()
    for words in ("network tiny, layer conv2", "outputs 0..3, rows 5..9", "unit", "bitline current k is -i(vblk)"):
        assert words in text
    assert ".include nor65.card" in text
    assert text.isascii()


def test_folders_and_configurations_that_cannot_be(shared_store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not empty"):
        circuit_for(shared_store).write_netlists(tmp_path)
    with pytest.raises(OutputError, match=r"holds mine\.txt, which cosim did not write there"):
        circuit_for(shared_store).write_netlists(tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigError, match="has no decks"):
        circuit_for(shared_store, "run.fidelity=ideal").write_netlists(tmp_path / "ideal")
    many = Config.load(None, ["array.open_wordlines=13"])
    wide = CircuitNetwork(load_network("digits-w4a4"), many, store=shared_store)
    with pytest.raises(ConfigError, match="too many patterns"):
        wide.write_netlists(tmp_path / "many")
    assert not (tmp_path / "many").exists()


def test_a_folder_holds_one_configuration(shared_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "decks"
    circuit_for(shared_store, "array.open_wordlines=3", "corner.process=ff").write_netlists(out)
    fast = (out / "nor65.card").read_text()
    (out / "conv1_g0_0.raw").touch()  # what ngspice answered to a deck that is about to go
    manifest = json.loads(circuit_for(shared_store).write_netlists(out, force=True).read_text())
    assert manifest["config"]["corner"]["process"] == "tt"
    assert (out / "nor65.card").read_text() != fast
    kept = {path.name for path in out.iterdir()} - {".cosim-files"}
    assert kept == {"manifest.json", "nor65.card", *(entry["file"] for entry in manifest["decks"])}


@pytest.mark.parametrize("deck", sorted(path.name for path in EXAMPLES.glob("*.cir")))
def test_example_decks_give_their_expected_currents(deck: str, tmp_path: Path) -> None:
    """netlists/examples/README.md says how the expected currents are made again."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    subprocess.run(["ngspice", "-b", deck], cwd=tmp_path / "examples", capture_output=True, check=True)
    raw = read_raw((tmp_path / "examples" / deck).with_suffix(".raw"))
    expected = np.loadtxt(EXAMPLES / deck.replace(".cir", ".csv"), delimiter=",", ndmin=2)
    at, currents = expected[:, 0], expected[:, 1:]
    found = np.stack([-np.interp(at, raw.values[:, 0], values) for values in raw.values.T[1:]], axis=1)
    np.testing.assert_allclose(found, currents, atol=2e-9)
