"""A store that is not as cosim left it: what is strange is told, nothing of a user's is changed, no pipe is awaited."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cosim
from cosim.currents import make_source
from cosim.errors import CosimError, InputError, MachineError, OutputError
from cosim.spice import IndexedDeck, Reading, Store, is_store
from cosim.spice.archive import Damaged, packed, packed_array, unpacked, unpacked_array
from tests.spice.test_driver import program, simulator_with, small_deck

ONE, TWO = "ab" + "0" * 62, "ab" + "1" * 62
READING = Reading(np.array([[1e-6, 2e-6]]), np.zeros(1), np.zeros(0), np.zeros((0, 2)), 0.5)
PLACES = {"result": f"results/ab/{ONE}.npz", "answer": f"answers/{ONE}", "index": f"index/ab/{ONE}.txt"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a result, an answer and an index."""
    store = Store(tmp_path / "store")
    store.save(ONE, READING)
    store.save_answer(ONE, np.arange(3.0))
    store.index.add(ONE, [IndexedDeck(TWO, "01 02")])
    return store


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Path]:
    """A user's folder, which stays as it is."""
    users = tmp_path / "users"
    (users / "run-thesis01").mkdir(parents=True)
    for name in ("alive", "chapter1"):
        (users / "run-thesis01" / name).write_text("years of work")
    yield users
    assert sorted(str(path.relative_to(users)) for path in users.rglob("*")) == [
        "run-thesis01", "run-thesis01/alive", "run-thesis01/chapter1",
    ]  # fmt: skip
    assert {path.read_text() for path in (users / "run-thesis01").iterdir()} == {"years of work"}


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """End what waits for a pipe."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def look(store: Store, what: str) -> object:
    """What a store says of one of PLACES."""
    if what == "result":
        return store.load(ONE, 1, 2)
    return store.load_answer(ONE, (3,)) if what == "answer" else store.index.decks(ONE)


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("kind", ["a pipe", "a symbolic link", "a directory", "terabytes"])
def test_only_regular_files_are_read(kind: str, what: str, store: Store, users: Path) -> None:
    path = store.root / PLACES[what]
    path.unlink()
    message = f"is {kind}, expected a regular file: remove it"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a symbolic link":
        path.symlink_to(users / "run-thesis01" / "chapter1")
    elif kind == "a directory":
        (path / "inside").mkdir(parents=True)
    else:
        path.touch()
        os.truncate(path, 1 << 40)
        message = "holds 1,099,511,627,776 bytes, expected at most 268,435,456: remove it"
    before = path.lstat()
    with pytest.raises(InputError, match=f"^{path} {message}"):
        look(store, what)
    if what == "index" and kind != "terabytes":
        with pytest.raises(OutputError, match=f"cannot write {path}"):
            store.index.add(ONE, [IndexedDeck(TWO, "03")])
    assert (path.lstat().st_ino, path.lstat().st_size) == (before.st_ino, before.st_size)
    assert kind != "a directory" or (path / "inside").is_dir()


@pytest.mark.parametrize("failing", [MemoryError, KeyboardInterrupt, TypeError])
@pytest.mark.parametrize(("what", "reader"), [("result", "unpacked"), ("answer", "unpacked_array")])
def test_what_fails_while_a_file_is_read_does_not_remove_it(
    what: str, reader: str, failing: type[BaseException], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise failing

    before = (store.root / PLACES[what]).read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(f"cosim.spice.store.{reader}", fail)
        with pytest.raises(failing):
            look(store, what)
    assert (store.root / PLACES[what]).read_bytes() == before
    assert look(store, what) is not None


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_machine_in_trouble_ends_the_run_and_removes_nothing(
    what: str, number: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Any, *arguments: object, **named: object) -> int:
        raise OSError(number, os.strerror(number), path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        with pytest.raises(MachineError, match=f"cannot read .*{os.strerror(number)}"):
            look(store, what)
    assert look(store, what) is not None


@pytest.mark.parametrize(
    "room", ["results", "index", "answers", "failures", "locks", "scratch", "results/ab", "index/ab"]
)
def test_a_link_to_a_users_folder_is_refused(room: str, store: Store, users: Path) -> None:
    path = store.root / room
    path.rename(store.root.with_name("before"))
    path.symlink_to(users)
    with pytest.raises(
        OutputError, match=f"{path} is a symbolic link, expected a folder, since a store follows no links"
    ):
        Store(store.root)


def test_what_only_looks_like_the_folder_of_a_dead_process_is_left_alone(store: Store, users: Path) -> None:
    scratch = store.root / "scratch"
    (scratch / "run-abcdefg1").symlink_to(users / "run-thesis01")
    for number, kind in enumerate(("link", "pipe", "folder", "nothing"), start=2):
        folder = scratch / f"run-abcdefg{number}"
        folder.mkdir()
        if kind == "link":
            (folder / "alive").symlink_to(users / "run-thesis01" / "alive")
        elif kind == "pipe":
            os.mkfifo(folder / "alive")
        elif kind == "folder":
            (folder / "alive").mkdir()
    (scratch / "run-abcdefg6").mkdir()
    (scratch / "run-abcdefg6" / "alive").touch()
    Store(store.root)
    assert [folder.name for folder in sorted(scratch.glob("run-abcdefg?"))] == [
        f"run-abcdefg{number}" for number in range(1, 6)
    ]


def test_a_linked_mark_marks_nothing(tmp_path: Path, users: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cosim-store").symlink_to(users / "run-thesis01" / "alive")
    assert not is_store(tmp_path / "other")
    with pytest.raises(OutputError, match="has other files and is not a store"):
        Store(tmp_path / "other")


def test_a_failure_is_not_written_through_links(tmp_path: Path, users: Path, store: Store) -> None:
    simulator = simulator_with(program(tmp_path, "exit 1"), store.root)
    folder = store.root / "failures" / small_deck().identity(simulator.engine)
    folder.mkdir()
    (folder / "log.txt").symlink_to(users / "run-thesis01" / "chapter1")
    with pytest.raises(CosimError, match="failed twice"):
        simulator.simulate([small_deck()])
    assert (folder / "log.txt").is_file()
    assert not (folder / "log.txt").is_symlink()


@pytest.mark.parametrize(
    "strange", ["results/thesis", "results/ab/thesis.npz", "answers/thesis", "failures/thesis", f"answers/{ONE[:63]}"]
)
def test_clearing_refuses_what_cosim_did_not_write(strange: str, store: Store) -> None:
    (store.root / strange).write_text("years of work")
    with pytest.raises(OutputError, match=f"{strange} is not part of a store: move it away"):
        store.clear()
    assert store.load(ONE, 1, 2) is not None
    (store.root / strange).unlink()
    store.clear()
    assert store.size() == (0, 0, 0)


def test_clearing_and_counting_follow_no_links(store: Store, users: Path) -> None:
    counted = store.size()
    (store.root / "failures" / ONE).symlink_to(users / "run-thesis01")
    (store.root / "answers" / TWO).symlink_to(users / "run-thesis01" / "chapter1")
    assert store.size() == counted
    with pytest.raises(OutputError, match="is not part of a store"):
        store.clear()


def test_a_lock_is_not_awaited_if_it_is_a_pipe_nor_followed_if_it_is_a_link(store: Store, users: Path) -> None:
    lock = store.root / "locks" / ONE[:3]
    os.mkfifo(lock)
    with store.claim(ONE, lambda: None):
        pass
    lock.unlink()
    lock.symlink_to(users / "run-thesis01" / "chapter1")
    with pytest.raises(OutputError, match=f"cannot write {store.root}/locks"), store.claim(ONE, lambda: None):
        pass


def test_every_flipped_bit_of_a_result_is_noticed() -> None:
    """Or it changes nothing, as the date of an archive."""
    whole, harmless = packed(READING, ONE), 0
    rng = np.random.default_rng(0)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        try:
            found = unpacked(bytes(damaged), ONE, 1, 2)
        except Damaged:
            continue
        harmless += 1
        for name, value in vars(READING).items():
            assert np.array_equal(getattr(found, name), value)
    assert 0 < harmless < len(whole) / 4


def test_every_cut_result_is_noticed() -> None:
    whole = packed(READING, ONE)
    for length in range(len(whole)):
        with pytest.raises(Damaged):
            unpacked(whole[:length], ONE, 1, 2)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999999999, 999999999999999999), }\n",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (), }\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }\n",
        "{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,), }\n",
        "(" * 5000 + "\n",
        "",
    ],
)
def test_an_array_of_another_kind_is_noticed(header: str) -> None:
    whole = packed_array(np.zeros(1))
    content = whole[:8] + len(header).to_bytes(2, "little") + header.encode() + bytes(8)
    with pytest.raises(Damaged):
        unpacked_array(content)
    assert np.array_equal(unpacked_array(whole), np.zeros(1))


def test_an_answer_under_another_name_is_not_believed(store: Store) -> None:
    (store.root / "answers" / TWO).write_bytes((store.root / "answers" / ONE).read_bytes())
    assert store.load_answer(TWO, (3,)) is None


def test_an_answer_of_another_kind_is_not_believed(store: Store) -> None:
    for array in (np.array(["a", "b"]), np.array([1, 2]), np.array([1, np.nan]), np.array([np.inf, 1])):
        store.save_answer(TWO, array)
        assert store.load_answer(TWO, (2,)) is None


def test_an_answer_that_is_too_large_is_not_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosim.spice.store._MOST_BYTES", 32 + 128 + 8)
    store.save_answer(TWO, np.zeros(1))
    assert store.load_answer(TWO, (1,)) is not None
    store.save_answer(TWO[::-1], np.zeros(2))
    assert store.load_answer(TWO[::-1], (2,)) is None


@pytest.mark.parametrize("shape", [(4,), (3, None), ()])
def test_an_answer_of_another_shape_is_not_believed(shape: tuple[int | None, ...], store: Store) -> None:
    assert store.load_answer(ONE, shape) is None
    assert store.load_answer(ONE, (None,)) is not None


@pytest.mark.parametrize("forge", [lambda kept: kept[:, :-1], lambda kept: np.pad(kept, ((0, 0), (0, 3)))])
def test_a_forged_design_is_programmed_again(forge: Callable[[np.ndarray], np.ndarray], tmp_path: Path) -> None:
    config = cosim.Config.load(None, ["run.fidelity=dc"])
    meant = make_source(config, tmp_path).cell
    (path,) = (tmp_path / "answers").iterdir()
    kept = Store(tmp_path).load_answer(path.name, (3, None))
    Store(tmp_path).save_answer(path.name, forge(kept))
    again = make_source(config, tmp_path).cell
    assert np.array_equal(again.shifts, meant.shifts)
    assert np.array_equal(again.closed.conductance_s, meant.closed.conductance_s)
