"""Runs programs, each with limits of time and output. None outlives its run, nor does what it starts."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cosim.errors import CosimError

# How long to wait for output before looking whether the program has ended; how long first if it has closed its output.
_LOOK_S, _LOOK_FIRST_S = 0.1, 0.001


class Interrupted(CosimError):
    """The run was stopped while a program was running."""


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        status: its exit status; that of a signal is negative.
        stopped: why it was killed, or "" if it ended by itself.
        output: what it wrote to standard output and standard error, cut at the limit.
        seconds: CPU time of it and its children [s].
    """

    status: int
    stopped: str
    output: str
    seconds: float


class Processes:
    """The running programs, which can be stopped together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._stopped = False

    def check(self) -> None:
        """Raise Interrupted once the programs have been stopped."""
        if self._stopped:
            raise Interrupted("stopped")

    def run(
        self,
        command: list[str],
        *,
        timeout_s: float,
        most_output: int,
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> Ended:
        """Run a program without standard input, in a session of its own. In the end, all of its group is killed.

        Args:
            command: the program and its arguments.
            timeout_s: it is killed after this time [s].
            most_output: it is killed when it has written more than this [bytes].
            folder: its working directory; None for this one.
            environment: its environment; None for this one.

        Raises:
            Interrupted: the programs were stopped.
            OSError: it cannot be started.
        """
        with self._lock:
            self.check()
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process.pid)
        try:
            output, stopped = _attend(process, timeout_s, most_output)
        finally:
            with self._lock:
                # The process keeps its number until it has been waited for.
                _kill_group(process.pid)
                self._running.discard(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.stdout is not None:
                process.stdout.close()
        self.check()
        text = output.decode(errors="replace")
        return Ended(process.returncode, stopped, text, usage.ru_utime + usage.ru_stime)

    def stop(self) -> None:
        """Kill all running programs with their children, and refuse to start others."""
        with self._lock:
            self._stopped = True
            for pid in self._running:
                _kill_group(pid)


def _attend(process: subprocess.Popen[bytes], timeout_s: float, most_output: int) -> tuple[bytes, str]:
    """Take a program's output until it has ended or broken a limit.

    A child may keep the output open when the program has ended, so that its end is looked for as well.

    Returns:
        the output, and the limit that was broken or "". The program can still be waited for.
    """
    assert process.stdout is not None
    pipe, poll = process.stdout.fileno(), select.poll()
    os.set_blocking(pipe, False)
    poll.register(pipe, select.POLLIN)
    output, reading, pause_s = bytearray(), True, _LOOK_S
    deadline = time.monotonic() + timeout_s
    while True:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        with contextlib.suppress(BlockingIOError):
            while reading and len(output) <= most_output:
                part = os.read(pipe, 1 << 16)
                output += part
                if not part:
                    reading, pause_s = False, _LOOK_FIRST_S
                    poll.unregister(pipe)
        if len(output) > most_output:
            return bytes(output[:most_output]), f"it wrote more than {most_output:,} bytes of output"
        if ended:
            return bytes(output), ""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return bytes(output), f"no answer within {timeout_s:g} s"
        poll.poll(1e3 * min(left_s, pause_s))
        pause_s = min(2 * pause_s, _LOOK_S)


def _kill_group(pid: int) -> None:
    # The group of a process that has ended, but has not been waited for yet, may be gone.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
