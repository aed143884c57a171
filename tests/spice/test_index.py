"""The index: a read that has an answer is neither simulated nor written again, whatever asks for it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosim.config import Config
from cosim.currents import GroupCurrents, ReadRequest, SpiceSource
from cosim.currents.programming import program
from cosim.mapping import Group
from cosim.spice import IndexedDeck, Simulator, Store, read_keys
from cosim.spice.index import Index
from tests.physics.arrays import drive_of, group_of, random_group

DECKS_OF_FOUR = ["run.fidelity=dc", "run.patterns_per_deck=4", "run.workers=1"]
# Of as many patterns as a deck reads, and of more inputs than can be listed.
NARROW = random_group(wordlines=2, bitlines=2)
WIDE = random_group(wordlines=14, bitlines=2)
GROUPS = pytest.mark.parametrize(("group", "reads"), [(NARROW, 4), (WIDE, 12)], ids=["a block", "read by read"])


def source_in(store: Path, *settings: str) -> SpiceSource:
    """A source of its own, as a run has it; programming is not counted."""
    config = Config.load(None, [*DECKS_OF_FOUR, *settings])
    simulator = Simulator(config.run, Store(store))
    source = SpiceSource(config, program(config, simulator), simulator)
    source.usage.take()
    return source


def read(source: SpiceSource, group: Group, patterns: np.ndarray | list[int], **how: bool) -> GroupCurrents:
    """The answer to patterns of a group."""
    request = ReadRequest(group, drive_of(group, np.asarray(patterns)), **how)
    (found,) = source.currents([request], "test")
    return found


def files(store: Path, room: str) -> list[Path]:
    return sorted(file for file in (store / room).glob("*/*") if file.is_file())


@pytest.fixture
def no_deck(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and writing a deck of an array is an error from then on."""

    def forbid() -> None:
        def written(*_: object, **__: object) -> None:
            raise AssertionError("a deck was written")

        monkeypatch.setattr(SpiceSource, "deck", written)

    return forbid


@GROUPS
def test_a_warm_start_writes_no_deck(group: Group, reads: int, tmp_path: Path, no_deck: Callable[[], None]) -> None:
    cold = read(source_in(tmp_path), group, np.arange(reads))
    no_deck()
    source = source_in(tmp_path)
    warm = read(source, group, np.arange(reads))
    assert np.array_equal(warm.currents, cold.currents)
    assert np.array_equal(warm.unsettled_a, cold.unsettled_a)
    assert (source.usage.patterns_simulated, source.usage.patterns_reused) == (0, reads)


def test_a_store_without_an_index_gets_one(tmp_path: Path, no_deck: Callable[[], None]) -> None:
    cold = read(source_in(tmp_path), NARROW, np.arange(4))
    shutil.rmtree(tmp_path / "index")
    source = source_in(tmp_path)
    assert np.array_equal(read(source, NARROW, np.arange(4)).currents, cold.currents)
    assert source.usage.decks == 0
    no_deck()
    assert np.array_equal(read(source_in(tmp_path), NARROW, np.arange(4)).currents, cold.currents)


def test_only_reads_without_an_answer_are_simulated(tmp_path: Path) -> None:
    first = [7, 8000, 5, 300, 16383, 12]
    answered = read(source_in(tmp_path), WIDE, first)
    source = source_in(tmp_path)
    found = read(source, WIDE, [1, 300, 2, 7, 300, 16383, 9, 4, 11])
    assert (source.usage.decks, source.usage.patterns_simulated) == (2, 5)
    here, there = [1, 3, 4, 5], [3, 0, 3, 4]
    assert np.array_equal(found.currents[here], answered.currents[there])
    # What comes of several decks is what one deck gives.
    whole = source_in(tmp_path / "another", "run.patterns_per_deck=64")
    expected = read(whole, WIDE, [1, 300, 2, 7, 300, 16383, 9, 4, 11])
    assert whole.usage.decks == 1
    np.testing.assert_allclose(found.currents, expected.currents, rtol=1e-5)


def test_transients_answer_read_by_read_too(tmp_path: Path) -> None:
    tran = "run.fidelity=tran"
    read(source_in(tmp_path, tran), WIDE, [7, 8000, 5])
    source = source_in(tmp_path, tran)
    found = read(source, WIDE, [5, 6, 7, 8000])
    assert source.usage.patterns_simulated == 1
    expected = read(source_in(tmp_path / "another", tran), WIDE, [5, 6, 7, 8000])
    np.testing.assert_allclose(found.currents, expected.currents, rtol=2e-3)
    assert len(found.unsettled_a) == 4


def test_shares_of_a_voltage_are_reads_of_their_own(tmp_path: Path) -> None:
    amplitude = ["read.mode=amplitude", "array.source_line_wordlines=1"]
    drive = np.random.default_rng(0).integers(0, 16, (5, 14)) / 15
    for wanted, simulated in ((drive[:3], 3), (drive[2:], 2), (drive, 0)):
        source = source_in(tmp_path, *amplitude)
        (found,) = source.currents([ReadRequest(WIDE, wanted)], "test")
        assert source.usage.patterns_simulated == simulated
    fresh = source_in(tmp_path / "another", *amplitude)
    (expected,) = fresh.currents([ReadRequest(WIDE, drive)], "test")
    np.testing.assert_allclose(found.currents, expected.currents, rtol=1e-5)


def test_names_of_reads() -> None:
    drive = np.zeros((3, 256))
    drive[1, 255], drive[2, 0] = 1, 0.5
    names = read_keys(drive)
    assert names[0] == "00" * 32
    assert names[1] == "00" * 31 + "80"
    assert len({*names, *read_keys(drive / 2)}) == 5
    assert read_keys(np.eye(3, dtype=bool)) == read_keys(np.eye(3)) == ["01", "02", "04"]


@GROUPS
def test_careful_reads_are_simulated_by_themselves(group: Group, reads: int, tmp_path: Path) -> None:
    read(source_in(tmp_path), group, np.arange(reads))
    listed = [file.read_bytes() for file in files(tmp_path, "index")]
    source = source_in(tmp_path)
    read(source, group, np.arange(reads), careful=True)
    assert source.usage.patterns_simulated == reads
    assert [file.read_bytes() for file in files(tmp_path, "index")] == listed


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "binary", "gone"])
@GROUPS
def test_a_damaged_index_costs_time_and_nothing_else(group: Group, reads: int, damage: str, tmp_path: Path) -> None:
    cold = read(source_in(tmp_path), group, np.arange(reads))
    (path,) = files(tmp_path, "index")
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(content[:-5])
    elif damage == "flip":
        content[content.rindex(b" 0") + 1] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "binary":
        path.write_bytes(np.random.default_rng(0).bytes(1000))
    else:
        path.unlink()
    for _ in range(2):  # the second time it is whole again
        source = source_in(tmp_path)
        np.testing.assert_array_equal(read(source, group, np.arange(reads)).currents, cold.currents)
        assert source.usage.decks == 0


@GROUPS
def test_an_entry_that_leads_nowhere_is_simulated_again(group: Group, reads: int, tmp_path: Path) -> None:
    cold = read(source_in(tmp_path), group, np.arange(reads))
    listed = files(tmp_path, "index")[0].read_bytes()
    shutil.rmtree(tmp_path / "results")
    again = read(source_in(tmp_path), group, np.arange(reads))
    assert np.array_equal(again.currents, cold.currents)
    assert files(tmp_path, "index")[0].read_bytes() == listed, "nothing was added"


def test_a_damaged_result_behind_the_index_is_simulated_again(tmp_path: Path) -> None:
    cold = read(source_in(tmp_path), NARROW, np.arange(4))
    (listed,) = Index(tmp_path / "index").decks(files(tmp_path, "index")[0].stem)
    (tmp_path / "results" / listed.identity[:2] / f"{listed.identity}.npz").write_text("not a result")
    source = source_in(tmp_path)
    assert np.array_equal(read(source, NARROW, np.arange(4)).currents, cold.currents)
    assert source.usage.decks == 1


def test_everything_that_decides_a_deck_decides_its_groups_identity(tmp_path: Path) -> None:
    tile = np.random.default_rng(0).integers(0, 24, (256, 3)).astype(np.uint8)
    group, shifts = group_of(tile, 18, 9), np.zeros((9, 3))
    plain = source_in(tmp_path)
    neighbour = tile.copy()
    neighbour[0, 0] ^= 1
    lower = group_of(np.roll(tile, 9, axis=0), 27, 9)
    groups = [group, replace(group, around=neighbour), replace(group, around=None), group_of(tile, 27, 9), lower]
    identities = [plain.decks.identity("ngspice-39", each) for each in groups]
    identities += [plain.decks.identity("ngspice-39", group, cells) for cells in (shifts, shifts + 1e-9, shifts.T)]
    identities.append(plain.decks.identity("ngspice-40", group))
    for setting in (
        "run.fidelity=tran", "corner.supply=0.9", "corner.process=ff", "corner.temperature_c=30", "read.pulse_s=30e-9",
        "array.bitline_res_ohm=1", "array.closed_wordlines=omitted", "cell.full_scale_a=8e-6", "sense.stage=resistive",
        "sense.stage=transistor", "cell.card=nor65-coupled",
    ):  # fmt: skip
        identities.append(source_in(tmp_path, setting).decks.identity("ngspice-39", group))
    assert len(set(identities)) == len(identities)
    same = ["adc.bits=6", "trim.method=none", "variation.read_sigma_rel=0.1", "run.patterns_per_deck=8"]
    assert source_in(tmp_path, *same).decks.identity("ngspice-39", group) == identities[0]


def test_lines_of_many_processes_are_all_there(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from cosim.spice.index import *\n"
        "index = Index(Path(sys.argv[1]))\n"
        "for deck in range(200): index.add('ab', [IndexedDeck(f'{sys.argv[2]}-{deck}', '00 ' * 300)])"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in "xyz"]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    found = [deck.identity for deck in Index(tmp_path).decks("ab")]
    assert sorted(found) == sorted(f"{name}-{deck}" for name in "xyz" for deck in range(200))


def test_lines_of_another_group_are_not_believed(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.add("ab", [IndexedDeck("p", "00 01")])
    (tmp_path / "ab" / "ab.txt").rename(tmp_path / "ab" / "abc.txt")
    assert index.decks("abc") == []
    index.add("abc", [IndexedDeck("q", "00 01")])
    assert index.decks("abc") == [IndexedDeck("q", "00 01")]


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path) -> None:
    index = Index(tmp_path)
    decks = [IndexedDeck(name, f"{place:02x} {place + 1:02x}") for place, name in enumerate("pqr")]
    index.add("ab", decks[:1])
    (path,) = tmp_path.glob("*/*")
    with path.open("a") as file:
        file.write("\nq 01")
    index.add("ab", decks[2:])
    assert index.decks("ab") == [decks[0], decks[2]]


def test_two_sources_at_once_share_the_decks_that_are_planned(tmp_path: Path) -> None:
    """What one has announced and not yet simulated, the other cuts alike, waits for, or simulates."""
    sources = [source_in(tmp_path) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda source: read(source, WIDE, np.arange(80)).currents, sources)
    assert np.array_equal(first, second)
    assert sum(source.usage.patterns_simulated for source in sources) == 80


@pytest.mark.parametrize(("group", "reads", "requests"), [("NARROW", 4, 24), ("WIDE", 96, 1)])
def test_a_run_that_was_killed_goes_on_where_it_was(group: str, reads: int, requests: int, tmp_path: Path) -> None:
    """24 decks: every order of a block, or the reads of one request."""
    script = (
        "import itertools, sys; from pathlib import Path; from tests.spice.test_index import *\n"
        "source = source_in(Path(sys.argv[1]))\n"
        f"orders = itertools.islice(itertools.permutations(range({reads})), {requests})\n"
        f"asked = [ReadRequest({group}, drive_of({group}, np.array(order))) for order in orders]\n"
        "list(source.currents(asked, 'test'))\n"
        "print(source.usage.decks, source.usage.patterns_simulated)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    source_in(tmp_path)
    programmed = len(files(tmp_path, "results"))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(files(tmp_path, "results")) < programmed + 5:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = len(files(tmp_path, "results")) - programmed
    assert 5 <= done < 24
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [int(count) for count in again.stdout.split()] == [24 - done, 4 * (24 - done)]


def test_a_run_that_was_killed_goes_on_with_more_reads(tmp_path: Path) -> None:
    """Decks that were announced keep their cut where all of their reads are asked again."""
    source = source_in(tmp_path)
    read(source, WIDE, np.arange(40))
    announced = files(tmp_path, "index")[0].read_text()
    for path in files(tmp_path, "results")[::2]:
        path.unlink()  # as if it had been killed before these
    source = source_in(tmp_path)
    left = 40 - sum(
        len(deck.reads.split())
        for deck in Index(tmp_path / "index").decks(files(tmp_path, "index")[0].stem)
        if (tmp_path / "results" / deck.identity[:2] / f"{deck.identity}.npz").exists()
    )
    read(source, WIDE, np.append(np.arange(100, 106), np.arange(40)))
    assert source.usage.patterns_simulated == left + 6
    assert files(tmp_path, "index")[0].read_text().startswith(announced)
    assert len(Index(tmp_path / "index").decks(files(tmp_path, "index")[0].stem)) == 10 + 2
