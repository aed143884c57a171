"""The ngspice driver: what it accepts, what it rejects, and what it does about it.

The simulator is the real one; where it must misbehave in a certain way, a script stands between it and the driver.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosim.config import Config
from cosim.device import load_card
from cosim.errors import CardError, MachineError, SimulationError
from cosim.netlist import Deck, curve_deck
from cosim.spice import Simulator, Store
from cosim.spice.ngspice import find_ngspice
from cosim.spice.raw import read_raw
from tests.spice.test_processes import ended

ROOT = Path(__file__).parents[2]


def small_deck(volts: float = 0.1) -> Deck:
    return curve_deck(load_card("nor65"), np.array([0.3, 0.9]), np.full(2, volts), Config())


def rc_deck() -> Deck:
    """A capacitor charged through a resistor: 1 ns, read after one and after many time constants."""
    circuit = "vin b 0 pwl(0 0 1e-15 1)\nr1 b c 1k\nc1 c 0 1e-12\n"
    samples = np.array([1e-9, 20e-9])
    return Deck("tran", ".tran 0.01n 20n", circuit, {"method": "gear", "reltol": 1e-5}, {}, ("vin",), samples)


def program(folder: Path, script: str) -> str:
    """An ngspice program that runs a shell script instead; $REAL is the real one."""
    path = folder / "ngspice"
    path.write_text(
        f'#!/bin/sh\nREAL=/usr/bin/env\ncase "$*" in *--version*) exec ngspice --version;; esac\n{script}\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def simulator_with(program_path: str, store: Path, **run: object) -> Simulator:
    return Simulator(Config().run.model_copy(update={"ngspice": program_path, "workers": 1, **run}), Store(store))


def test_a_transient_gives_the_charging_curve(tmp_path: Path) -> None:
    (reading,) = simulator_with("ngspice", tmp_path).simulate([rc_deck()])
    np.testing.assert_allclose(reading.currents[:, 0], [1e-3 * np.exp(-1), 0], rtol=2e-3, atol=1e-8)


def test_two_decks_keep_their_order_and_count_once(tmp_path: Path) -> None:
    simulator = simulator_with("ngspice", tmp_path)
    low, high = simulator.simulate([small_deck(0.05), small_deck(0.1)])
    assert (low.currents < high.currents).all()
    assert simulator.usage.decks == 2
    simulator.simulate([small_deck(0.1)])
    assert (simulator.usage.decks, simulator.usage.decks_reused) == (2, 1)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 1", "exit status 1"),
        ("exit 0", "no raw file"),
        ("echo 'Error: cannot do that'; exec ngspice \"$@\"", "the log says 'Error: cannot do that'"),
        ("echo 'warning: singular matrix'; exec ngspice \"$@\"", "singular matrix"),
        ('ngspice "$@"; head -c 40 out.raw > cut; mv cut out.raw', "cannot be read"),
        ('ngspice "$@"; head -c -8 out.raw > cut; mv cut out.raw', "cannot be read"),
        ("ngspice \"$@\"; sed -i 's/Operating Point/Something Else./' out.raw", "plot 'Something Else.'"),
        ("ngspice \"$@\"; sed -i 's/i(vd1)/i(vxx)/' out.raw", "vectors"),
        ("ngspice \"$@\"; printf '\\377\\377\\377\\377\\377\\377\\377\\177' | dd of=out.raw bs=1 conv=notrunc "
         "seek=$(($(stat -c %s out.raw) - 8)) 2>/dev/null", "not finite"),
        ("sleep 30", "no answer within"),
        ("kill -SEGV $$", "exit status -11"),
        ("mkfifo out.raw", "out.raw is a pipe, expected a regular file"),
        ("mkdir out.raw", "out.raw is a directory, expected a regular file"),
        ("ln -s /dev/zero out.raw", "out.raw is a symbolic link, expected a regular file"),
        ('ngspice "$@"; truncate -s 1T out.raw', "holds 1,099,511,627,776 bytes, expected at most"),
        ('rm -r "$PWD"', "no raw file"),
        ("yes | head -c 300M", "it wrote more than 16,777,216 bytes of output"),
    ],
)  # fmt: skip
def test_an_answer_that_breaks_a_rule_is_rejected_and_recorded(script: str, reason: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    patience = 1.0 if script.startswith("sleep") else 60.0  # a busy machine must not look like a hanging one
    simulator = simulator_with(program(tmp_path, script), store, timeout_s=patience)
    with pytest.raises(SimulationError, match="failed twice") as failure:
        simulator.simulate([small_deck()])
    message = str(failure.value)
    assert reason in message
    (folder,) = (store / "failures").iterdir()
    assert str(folder) in message
    assert {"deck.cir", "nor65.card", "log.txt", "reason.txt"} == {file.name for file in folder.iterdir()}
    assert (folder / "log.txt").stat().st_size <= 1 << 20
    assert "repeat: cd " in (folder / "reason.txt").read_text()
    assert not [left for left in (store / "scratch").glob("run-*/*") if left.is_dir()]


def test_a_parameter_that_ngspice_would_ignore_is_a_mistake_in_the_card(tmp_path: Path) -> None:
    deck = small_deck()
    misspelt = {"nor65.card": deck.cards["nor65.card"].replace("+ toxe=", "+ toxx=")}
    with pytest.raises(CardError, match="does not know the card's parameter 'toxx'"):
        simulator_with("ngspice", tmp_path).simulate([replace(deck, cards=misspelt)])


def test_the_recorded_deck_can_be_repeated_by_hand(tmp_path: Path) -> None:
    with pytest.raises(SimulationError):
        simulator_with(program(tmp_path, "exit 1"), tmp_path / "store").simulate([small_deck()])
    (folder,) = (tmp_path / "store" / "failures").iterdir()
    assert os.system(f"cd {folder} && ngspice -n -b deck.cir > /dev/null 2>&1") == 0
    assert read_raw(folder / "out.raw").values.shape == (1, 2)


def test_the_last_failures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosim.spice.store._KEPT_FAILURES", 2)
    simulator = simulator_with(program(tmp_path, "exit 1"), tmp_path / "store")
    (tmp_path / "store" / "failures" / "thesis").mkdir()
    kept = []
    for volts in (0.05, 0.06, 0.07, 0.06):
        with pytest.raises(SimulationError):
            simulator.simulate([small_deck(volts)])
        kept.append(small_deck(volts).identity(simulator.engine))
        os.utime(tmp_path / "store" / "failures" / kept[-1], (len(kept), len(kept)))
    assert {folder.name for folder in (tmp_path / "store" / "failures").iterdir()} == {*kept[2:], "thesis"}


def test_the_second_attempt_has_tightened_options(tmp_path: Path) -> None:
    once = tmp_path / "once"
    script = f'if [ ! -e {once} ]; then touch {once}; exit 1; fi; grep -q itl4=100 deck.cir && exec ngspice "$@"'
    simulator = simulator_with(program(tmp_path, script), tmp_path / "store")
    (reading,) = simulator.simulate([small_deck()])
    assert reading.attempts == 2
    assert simulator.usage.retried == 1
    np.testing.assert_allclose(
        reading.currents, simulator_with("ngspice", tmp_path / "other").simulate([small_deck()])[0].currents, rtol=1e-6
    )


def test_tightened_options_never_loosen_a_deck() -> None:
    tightened = small_deck().tightened().options
    assert (tightened["reltol"], tightened["gmin"], tightened["bypass"]) == (1e-7, 1e-14, 0)
    assert replace(small_deck(), options={"reltol": 1e-2, "bypass": 1}).tightened().options["reltol"] == 1e-4


def test_a_time_out_ends_the_simulators_children_too(tmp_path: Path) -> None:
    script = f"sleep 300 & echo $! >> {tmp_path}/children; wait"
    with pytest.raises(SimulationError, match="no answer within"):
        simulator_with(program(tmp_path, script), tmp_path / "store", timeout_s=1).simulate([small_deck()])
    assert ended(tmp_path / "children") == 2


def test_a_full_disk_is_no_failure_of_the_simulator(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path;"
        "from tests.spice.test_driver import *;"
        "store = Store(Path(sys.argv[1])); signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300));"
        "Simulator(Config().run, store).simulate([small_deck()])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert "MachineError: no room to write" in done.stderr


def test_a_line_break_in_a_comment_begins_no_statement() -> None:
    deck = replace(small_deck(), comments=("x\n.control\nshell touch owned\n.endc", "µ"))
    assert "* x?.control?shell touch owned?.endc\n* ?\n" in deck.text()
    assert deck.text().isascii()


def test_a_relative_program_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, 'exec ngspice "$@"')
    monkeypatch.chdir(tmp_path)
    assert simulator_with("./ngspice", tmp_path / "store").simulate([small_deck()])[0].attempts == 1


def test_decks_that_succeed_are_kept_when_another_fails(tmp_path: Path) -> None:
    script = 'grep -q "vd0 d0 0 0.07" deck.cir && exit 1; exec ngspice "$@"'
    simulator = simulator_with(program(tmp_path, script), tmp_path / "store")
    with pytest.raises(SimulationError, match="exit status 1"):
        simulator.simulate([small_deck(0.07), small_deck(0.1), small_deck(0.09)])
    again = simulator_with(program(tmp_path, script), tmp_path / "store")
    again.simulate([small_deck(0.1), small_deck(0.09)])
    assert again.usage.decks == 0


def test_a_users_spiceinit_and_environment_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".spiceinit").write_text("set filetype=ascii\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPICE_ASCIIRAWFILE", "1")
    assert simulator_with("ngspice", tmp_path / "store").simulate([small_deck()])[0].currents.shape == (1, 2)


def test_missing_ngspice_names_the_package() -> None:
    with pytest.raises(MachineError, match="apt-get install ngspice"):
        find_ngspice("no-such-ngspice")


def test_a_version_that_never_comes_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "slow"
    path.write_text(f"#!/bin/sh\nsleep 300 & echo $! >> {tmp_path}/children; wait\n")
    path.chmod(0o755)
    monkeypatch.setattr("cosim.spice.ngspice._VERSION_TIMEOUT_S", 0.5)
    with pytest.raises(MachineError, match=r"does not say its version \(no answer within 0.5 s\): install"):
        find_ngspice(str(path))
    assert ended(tmp_path / "children") == 1


def test_a_flood_instead_of_a_version_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "flood"
    path.write_text("#!/bin/sh\nexec yes\n")
    path.chmod(0o755)
    with pytest.raises(MachineError, match=r"does not say its version \(it wrote more than 65,536 bytes of output\)"):
        find_ngspice(str(path))


def test_what_a_log_says_cannot_change_the_terminal(tmp_path: Path) -> None:
    script = "printf '\\033[2J%050000d\\n' 7; exit 1"
    with pytest.raises(SimulationError) as failure:
        simulator_with(program(tmp_path, script), tmp_path / "store").simulate([small_deck()])
    assert "\n    ?[2J000" in str(failure.value)
    assert max(map(len, str(failure.value).splitlines())) < 500


def test_time_that_does_not_rise_is_rejected(tmp_path: Path) -> None:
    """ngspice's own points, of which two have changed places."""
    script = (
        'ngspice "$@"; python3 -c \'import struct; from pathlib import Path; path = Path("out.raw");'
        'head, mark, body = path.read_bytes().partition(b"Binary:\\n");'
        "path.write_bytes(head + mark + body[:16] + body[32:48] + body[16:32] + body[48:])'"
    )
    with pytest.raises(SimulationError, match="the points of time do not rise from the start"):
        simulator_with(program(tmp_path, script), tmp_path / "store").simulate([rc_deck()])


def test_an_old_ngspice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_text("#!/bin/sh\necho '** ngspice-34 : Circuit level simulation program'\n")
    path.chmod(0o755)
    with pytest.raises(MachineError, match=r"ngspice-34, but ngspice-39 or newer is needed"):
        find_ngspice(str(path))


def test_another_program_is_no_ngspice() -> None:
    with pytest.raises(MachineError, match="does not say its version"):
        find_ngspice("true")


def test_identity_follows_everything_that_changes_the_answer_and_nothing_else() -> None:
    deck = small_deck()
    same = replace(deck, comments=("another comment",))
    assert deck.identity("ngspice-39") == same.identity("ngspice-39")
    others = [
        small_deck(0.11).identity("ngspice-39"),
        deck.identity("ngspice-40"),
        replace(deck, options={**deck.options, "reltol": 1e-3}).identity("ngspice-39"),
        replace(deck, cards={"nor65.card": deck.cards["nor65.card"].replace("vth0=2.37", "vth0=2.38")}).identity(
            "ngspice-39"
        ),
    ]
    assert len({deck.identity("ngspice-39"), *others}) == 5
