"""Programs have limits of time and output, and nothing that they start outlives them."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cosim.spice.processes import Ended, Interrupted, Processes


def run(script: str, *, timeout_s: float = 60, most_output: int = 1000) -> Ended:
    return Processes().run(["sh", "-c", script], timeout_s=timeout_s, most_output=most_output)


def ended(pids: Path) -> int:
    """How many processes a file names, all of which must end within a few seconds."""
    found = pids.read_text().split()
    until = time.monotonic() + 5
    while any(map(_running, found)):
        assert time.monotonic() < until, f"one of {found} still runs"
        time.sleep(0.01)
    return len(found)


def _running(pid: str) -> bool:
    """Whether a process lives and is no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_program_says_how_it_ended() -> None:
    done = run("echo out; echo err >&2; exit 3")
    assert (done.status, done.stopped, done.output) == (3, "", "out\nerr\n")
    assert run("kill -TERM $$").status == -signal.SIGTERM
    assert run("printf '\\377'").output == "\ufffd"
    assert run("cat").output == "", "there is no standard input"


def test_output_is_cut_at_its_limit() -> None:
    assert run("head -c 1000 /dev/zero").stopped == ""
    done = run("exec yes")
    assert done.stopped == "it wrote more than 1,000 bytes of output"
    assert done.output == "y\n" * 500


@pytest.mark.parametrize("closing", ["", "exec >&- 2>&-; "])
def test_a_program_that_does_not_end_is_stopped(closing: str, tmp_path: Path) -> None:
    started = time.monotonic()
    done = run(f"{closing}echo $$ > {tmp_path}/pids; sleep 300 & echo $! >> {tmp_path}/pids; wait", timeout_s=0.3)
    assert done.stopped == "no answer within 0.3 s"
    assert 0.3 <= time.monotonic() - started < 10
    assert ended(tmp_path / "pids") == 2


def test_children_that_are_left_behind_are_stopped_and_not_waited_for(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run(f"sleep 300 & echo $! > {tmp_path}/pids; echo done")  # the child holds the output open
    assert (done.status, done.output) == (0, "done\n")
    assert time.monotonic() - started < 10
    assert ended(tmp_path / "pids") == 1


def test_a_child_in_a_session_of_its_own_is_not_waited_for(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run(f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 20' & while ! [ -s {tmp_path}/pid ]; do :; done")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert done.status == 0
    assert time.monotonic() - started < 10


def test_stopping_ends_all_and_refuses_more(tmp_path: Path) -> None:
    processes, told = Processes(), []

    def work(number: int) -> None:
        with pytest.raises(Interrupted):
            processes.run(["sh", "-c", f"echo $$ > {tmp_path}/{number}; sleep 300"], timeout_s=60, most_output=10)
        told.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    while len([path for path in tmp_path.iterdir() if path.stat().st_size]) < 3:
        time.sleep(0.01)
    processes.stop()
    for thread in threads:
        thread.join(10)
    assert sorted(told) == [0, 1, 2]
    assert [ended(path) for path in tmp_path.iterdir()] == [1, 1, 1]
    with pytest.raises(Interrupted):
        processes.run(["true"], timeout_s=60, most_output=10)


def test_an_interrupt_ends_what_was_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def interrupt() -> None:
        while not pids.exists() or len(pids.read_text().split()) < 2:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(f"echo $$ > {pids}; sleep 300 & echo $! >> {pids}; wait")
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended(pids) == 2
