"""Watches which files an input changes, and which programs it starts."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.fuzz.kind import Place

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events that change a file, and the places of paths among their arguments, each with that of its dir_fd.
_CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
}
_STARTS = {"subprocess.Popen", "os.exec", "os.posix_spawn"}
# Unpickling runs code from a file.
_NEVER = {"os.system", "pickle.find_class", "socket.connect"}


class Watch:
    """Records forbidden events of this process while it is active, and compares the folders before and after.

    Args:
        place: the folders.
        programs: names or paths of programs that may be started.
    """

    def __init__(self, place: Place, programs: frozenset[str]) -> None:
        self._place, self._programs = place, programs
        self._on = False
        self._events: list[str] = []
        free = (place.outputs, place.store, place.temporary)
        self._free = tuple(f"{os.path.realpath(folder)}{os.sep}" for folder in free)
        sys.addaudithook(self._note)

    def begin(self) -> None:
        """Empty the folders that may change, and record the state of all others."""
        place = self._place
        for folder in (place.outputs, place.temporary):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        self._events.clear()
        self._before = self._look()
        self._on = True

    def end(self) -> str | None:
        """A description of what was changed or started against the rules, or None."""
        self._on = False
        after = self._look()
        changed = [path for path in self._before.keys() | after if self._before.get(path) != after.get(path)]
        return "; ".join([*dict.fromkeys(self._events), *(f"{path} was changed" for path in sorted(changed))]) or None

    def _look(self) -> dict[str, tuple[int, ...]]:
        """Every guarded file and folder, with facts that show a change."""
        found = {}
        for folder in (self._place.originals, self._place.inputs, self._place.work):
            for path in (folder, *folder.rglob("*")):
                seen = path.lstat()
                found[str(path)] = (seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ino)
        return found

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and flags & _WRITING:
                self._check("open without links" if flags & os.O_NOFOLLOW else "open", path, None)
        elif event in _CHANGES:
            for at, folder in _CHANGES[event]:
                self._check(event, arguments[at], None if folder is None else arguments[folder])
        elif event in _STARTS:
            program = os.fsdecode(arguments[0])
            if not {program, Path(program).name} & self._programs:
                self._events.append(f"{event} of {program!r}")
        elif event in _NEVER:
            self._events.append(f"{event} of {arguments!r:.200}")

    def _check(self, event: str, path: Any, folder: int | None) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # an open file
        text = os.fsdecode(path)
        if folder is not None and folder >= 0:
            text = str(Path(f"/proc/self/fd/{folder}").readlink() / text)
        named = Path(text)
        # If the name itself is changed, a link of this name is not followed.
        absolute = os.path.realpath(named) if event == "open" else f"{os.path.realpath(named.parent)}/{named.name}"
        if event == "os.mkdir" and Path(absolute).is_dir():
            return  # it fails, or is there already
        if not f"{absolute}{os.sep}".startswith(self._free) and absolute != os.devnull:
            self._events.append(f"{event} of {absolute}")
