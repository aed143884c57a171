"""Value change dumps, which GTKWave and most other waveform viewers open.

Source: IEEE 1364-2005, clause 18.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from cosim.experiments.probe import Probe

_TICK_S = 1e-15
_FIRST, _LAST = "!", "~"


def vcd_text(found: Probe) -> str:
    """The transients of a probe as a value change dump, with one scope for each group.

    A scope holds the wordlines, the bitline currents [A], and codes from their samples on. For amplitude reads, it
    holds the bitlines, as shares of their voltage, and the currents of source lines.
    """
    names, lines = _identifiers(), ["$timescale 1 fs $end"]
    changes: list[tuple[int, str]] = []
    for wave in found.waves:
        lines.append(f"$scope module {wave.name} $end")
        own = found.reads_of(wave)
        mixed = own[0].amplitudes is not None
        labels = [f"{'sl' if mixed else 'bl'}{bitline}" for bitline in wave.bitlines[:-1]] + ["reference"]
        for index in range(wave.states.shape[1]):
            name = next(names)
            lines.append(f"$var real 64 {name} b{index} $end" if mixed else f"$var wire 1 {name} w{index} $end")
            value = f"r{{:.9g}} {name}" if mixed else f"{{}}{name}"
            changes.append((0, value.format(0)))
            states = wave.states[:, index].tolist()
            changes += [(_ticks(at), value.format(state)) for at, state in zip(wave.edge_s, states, strict=True)]
        for column, label in enumerate(labels):
            name, code = next(names), next(names)
            lines.append(f"$var real 64 {name} {label}_a $end")
            lines.append(f"$var integer 32 {code} {label}_code $end")
            currents = wave.currents_a[:, column].tolist()
            changes += [(_ticks(at), f"r{value:.9g} {name}") for at, value in zip(wave.time_s, currents, strict=True)]
            changes.append((0, f"bx {code}"))
            changes += [
                (_ticks(at), f"b{int(read.codes[column]):b} {code}")
                for at, read in zip(wave.sample_s, own, strict=True)
            ]
        lines.append("$upscope $end")
    lines.append("$enddefinitions $end")
    changes.sort(key=lambda change: change[0])
    for tick, together in itertools.groupby(changes, key=lambda change: change[0]):
        lines += [f"#{tick}", *(change for _, change in together)]
    return "\n".join(lines) + "\n"


def _ticks(at: np.floating) -> int:
    return round(float(at) / _TICK_S)


def _identifiers() -> Iterator[str]:
    """Yield short identifiers: !, ", ..., ~, !!, !", ..."""
    letters = [chr(code) for code in range(ord(_FIRST), ord(_LAST) + 1)]
    for length in itertools.count(1):
        yield from map("".join, itertools.product(letters, repeat=length))
