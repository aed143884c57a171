"""The store: whole results or none, shared by processes, continued after a kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from filelock import FileLock

from cosim.config import Config
from cosim.errors import OutputError
from cosim.network import save_network
from cosim.spice import Simulator, Store, default_store, is_store
from tests.conftest import make_layer, make_network
from tests.spice.test_driver import small_deck


def stored(store: Path) -> list[Path]:
    return sorted((store / "results").glob("*/*.npz"))


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text", "other shape"])
def test_a_damaged_result_is_noticed_and_simulated_again(damage: str, tmp_path: Path) -> None:
    (good,) = Simulator(Config().run, Store(tmp_path)).simulate([small_deck()])
    (path,) = stored(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        at = content.find(np.asarray(good.currents).tobytes()[:8])
        content[at] ^= 0xFF
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not a result")
    else:
        Store(tmp_path).save(path.stem, type(good)(**{**vars(good), "currents": good.currents[:, :1]}))
    simulator = Simulator(Config().run, Store(tmp_path))
    (again,) = simulator.simulate([small_deck()])
    assert simulator.usage.decks == 1
    assert np.array_equal(again.currents, good.currents)


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": np.zeros(3)},
        {"seconds": np.asarray("x")},
        {"unsettled": np.zeros(0)},
        {"attempts": np.asarray(np.nan)},
        {"currents": np.asarray([["a", "b"]])},
        {"currents": np.asarray([[1, np.nan]])},
        {"wave_currents": np.zeros(4)},
    ],
)
def test_a_result_of_another_kind_is_simulated_again(change: dict[str, np.ndarray], tmp_path: Path) -> None:
    Simulator(Config().run, Store(tmp_path)).simulate([small_deck()])
    (path,) = stored(tmp_path)
    with np.load(path) as archive:
        content = dict(archive)
    np.savez(path, **{**content, **change})
    again = Simulator(Config().run, Store(tmp_path))
    again.simulate([small_deck()])
    assert again.usage.decks == 1


def test_a_result_under_another_name_is_not_believed(tmp_path: Path) -> None:
    simulator = Simulator(Config().run, Store(tmp_path))
    low, high = simulator.simulate([small_deck(0.05), small_deck(0.1)])
    first, second = stored(tmp_path)
    first.write_bytes(second.read_bytes())
    again = Simulator(Config().run, Store(tmp_path))
    found = again.simulate([small_deck(0.05), small_deck(0.1)])
    assert again.usage.decks == 1
    assert np.array_equal(found[0].currents, low.currents)
    assert np.array_equal(found[1].currents, high.currents)


def command(store: Path, network: Path | str, out: Path) -> list[str]:
    return [
        sys.executable, "-c", "from cosim.cli import main; main()", "infer", str(network), "--dataset", "digits",
        "--images", "12", "--out", str(out), "--store", str(store), "--workers", "1",
        "--set", "run.patterns_per_deck=32", "--fidelity", "dc",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that reads the 8x8 digits, small enough for many runs."""
    network = make_network()
    network.input_shape = (1, 8, 8)
    # 8x8 -> 6x6 -> pool 3x3 -> conv 2x2 -> 2x2 -> pool -> 1
    from cosim.network.layers import SoftwareStep, chain

    operations = [step.operation for step in network.steps]
    operations.insert(5, SoftwareStep("max_pool2d", {"kernel_size": 2}))
    operations[-1] = make_layer(outputs=10, inputs=4, kernel=(1, 1), kind="linear", name="linear3")
    network.steps = chain(operations)
    path = tmp_path_factory.mktemp("network") / "tiny.safetensors"
    save_network(network, path)
    return path


def results(path: Path) -> dict[str, np.ndarray]:
    """Every array of a run's file."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def test_a_killed_run_continues_and_ends_like_one_that_was_not(network: Path, tmp_path: Path) -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert subprocess.run(command(tmp_path / "a", network, tmp_path / "a.h5"), **quiet).returncode == 0
    whole = len(stored(tmp_path / "a"))
    kept = 0
    for _ in range(3):  # killed at three different moments
        process = subprocess.Popen(command(tmp_path / "b", network, tmp_path / "b.h5"), **quiet)
        while process.poll() is None and len(stored(tmp_path / "b")) < kept + 4:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "b.h5").exists()
        assert len(stored(tmp_path / "b")) >= kept
        kept = len(stored(tmp_path / "b"))
    assert 0 < kept < whole
    assert subprocess.run(command(tmp_path / "b", network, tmp_path / "b.h5"), **quiet).returncode == 0
    assert [path.name for path in stored(tmp_path / "b")] == [path.name for path in stored(tmp_path / "a")]
    first, second = results(tmp_path / "a.h5"), results(tmp_path / "b.h5")
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    # What killed processes left in scratch is swept by the next.
    assert not list((tmp_path / "b" / "scratch").iterdir())


def test_two_runs_share_a_store_and_simulate_every_deck_once(network: Path, tmp_path: Path) -> None:
    runs = [
        subprocess.Popen(
            [*command(tmp_path / "s", network, tmp_path / f"{name}.h5"), "--json", str(tmp_path / f"{name}.json")],
            stdout=subprocess.DEVNULL,
        )
        for name in "xy"
    ]
    assert [run.wait() for run in runs] == [0, 0]
    import json

    decks = [json.loads((tmp_path / f"{name}.json").read_text())["decks"] for name in "xy"]
    # The programming decks count as decks too.
    assert sum(decks) <= len(stored(tmp_path / "s"))
    first, second = results(tmp_path / "x.h5"), results(tmp_path / "y.h5")
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupting_stops_cleanly_with_130(ending: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path / "c", "digits-w4a4", tmp_path / "c.h5"),  # long enough to be interrupted on a busy machine
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        # A shell that runs the tests in the background has them, and what they start, ignore an interrupt.
        preexec_fn=lambda: signal.signal(ending, signal.SIG_DFL),
    )
    while process.poll() is None and len(stored(tmp_path / "c")) < 3:
        time.sleep(0.002)
    os.killpg(process.pid, ending)
    _, message = process.communicate(timeout=10)
    assert process.returncode == 130, message
    assert "the next run continues" in message
    assert "Traceback" not in message
    assert not (tmp_path / "c.h5").exists()
    assert not list((tmp_path / "c" / "scratch").iterdir())


def test_size_and_clear(tmp_path: Path) -> None:
    store = Store(tmp_path)
    Simulator(Config().run, store).simulate([small_deck()])
    results_, failures, size = store.size()
    assert (results_, failures) == (1, 0)
    assert size == stored(tmp_path)[0].stat().st_size
    store.clear()
    assert store.size() == (0, 0, 0)


def test_a_folder_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "scratch" / "run-thesis01" / "chapter1"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    with pytest.raises(OutputError, match="has other files and is not a store"):
        Store(tmp_path)
    assert precious.exists()


def test_two_processes_may_make_a_store_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def look(root: Path) -> bool:
        looks.append(root)
        if len(looks) == 1:  # the other process is quicker
            monkeypatch.undo()
            Store(tmp_path / "new")
            return False
        return is_store(root)

    monkeypatch.setattr("cosim.spice.store.is_store", look)
    Store(tmp_path / "new")
    assert looks


def test_a_store_whose_results_vanish_goes_on(tmp_path: Path) -> None:
    simulator = Simulator(Config().run, Store(tmp_path))
    shutil.rmtree(tmp_path / "results")
    shutil.rmtree(tmp_path / "locks")
    simulator.simulate([small_deck()])
    assert len(stored(tmp_path)) == 1


def test_waiting_for_another_run_can_be_interrupted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    identity = "abc" + "0" * 61
    asked = []

    def give_up() -> None:
        asked.append(1)
        if len(asked) > 2:
            raise KeyboardInterrupt

    holder = FileLock(tmp_path / "locks" / "abc")
    with holder, pytest.raises(KeyboardInterrupt), store.claim(identity, give_up):
        pass
    with store.claim(identity, lambda: None):
        pass


def test_clear_refuses_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        store.clear()
    assert (tmp_path / "thesis.tex").exists()


def test_where_the_store_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COSIM_STORE", str(tmp_path / "named"))
    assert default_store() == tmp_path / "named"
    monkeypatch.delenv("COSIM_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_store() == tmp_path / "cache" / "cosim" / "store"


def test_answers_are_kept_and_damaged_ones_are_not_taken(tmp_path: Path) -> None:
    store, answer = Store(tmp_path), np.arange(6, dtype=np.float32).reshape(2, 3)
    assert store.load_answer("a" * 64, (2, 3)) is None
    store.save_answer("a" * 64, answer)
    kept = store.load_answer("a" * 64, (2, 3))
    assert kept is not None
    assert kept.dtype == np.float32
    assert np.array_equal(kept, answer)
    (path,) = (tmp_path / "answers").iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    for damaged in (bytes(content), path.read_bytes()[:40], b""):
        path.write_bytes(damaged)
        assert store.load_answer("a" * 64, (2, 3)) is None
