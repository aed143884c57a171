"""A deck: one netlist file that ngspice runs, and what to read from its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cosim.config import Config, Corner

# Part of every identity. It stands for what is stored for a deck, and how it is read from ngspice's answer.
_RESULT_FORMAT = "cosim-result-1"
# Options for the second attempt at a deck that did not converge, unless its own options are stricter.
_TIGHTENED = {"bypass": 0, "reltol": 1e-4, "trtol": 1}
_PATIENT = {"itl1": 500, "itl4": 100}


def corner_options(config: Config) -> dict[str, float | str]:
    """The .options that set the corner's temperature; none if it is the one that ngspice assumes by default."""
    temperature = config.corner.temperature_c
    return {} if temperature == Corner().temperature_c else {"temp": f"{temperature:.10g}"}


@dataclass(frozen=True, eq=False)
class Deck:
    """A complete simulation: circuit, analysis, and the sweep values at which currents are read.

    Attributes:
        analysis: "tran", "dc" or "op".
        command: the analysis line.
        circuit: element lines, as PySpice writes them.
        options: the .options.
        cards: file name -> text of the cards that lie beside the deck.
        sources: names of the voltage sources whose currents are the answer, one for each bitline.
        samples: (reads,) times [s] or sweep values of the reads; one read for "op".
        settling: how long before each sample the current is compared with the sample [unit of `samples`], 0 for never.
        wave_reads: how many reads, from the first on, keep their waveforms.
        comments: explanations for a person; they are not a part of the deck's identity.
    """

    analysis: Literal["tran", "dc", "op"]
    command: str
    circuit: str
    options: Mapping[str, float | str]
    cards: Mapping[str, str]
    sources: tuple[str, ...]
    samples: np.ndarray
    settling: float = 0.0
    wave_reads: int = 0
    comments: tuple[str, ...] = ()

    @property
    def reads(self) -> int:
        return len(self.samples)

    def text(self, raw_name: str = "out.raw") -> str:
        """The text of the file. `ngspice -b` runs it, and writes the currents to `raw_name`."""
        # The title is the same for all decks, since ngspice prints it into the log, where a network's name
        # could look like an error message.
        saved = " ".join(f"i({source})" for source in self.sources)
        # Printable ASCII only: a line break would end a comment and begin a statement.
        comments = ["".join(c if " " <= c <= "~" else "?" for c in comment) for comment in self.comments]
        lines = ["* cosim deck", *(f"* {comment}" for comment in comments)]
        lines += [f".include {name}" for name in self.cards]
        lines.append(self.circuit.strip())
        if self.options:
            lines.append(".options " + " ".join(f"{key}={value}" for key, value in self.options.items()))
        lines += [f".save {saved}", self.command]
        lines += [
            ".control",
            "set num_threads=1",
            "set filetype=binary",
            "run",
            "if $sim_status = 0",
            f"write {raw_name}",
            "quit 0",
            "end",
            "quit 3",
            ".endc",
            ".end",
        ]
        return "\n".join(lines) + "\n"

    def identity(self, engine: str) -> str:
        """SHA-256 of everything that can change the answer: text without comments, cards, samples, engine version."""
        digest = hashlib.sha256(replace(self, comments=()).text().encode())
        for name in sorted(self.cards):
            digest.update(f"\0{name}\0{self.cards[name]}".encode())
        digest.update(self.samples.astype(np.float64).tobytes())
        digest.update(f"\0{self.settling!r}\0{self.wave_reads}\0{engine}\0{_RESULT_FORMAT}".encode())
        return digest.hexdigest()

    def tightened(self) -> Deck:
        """The same deck with options that converge in cases in which the fast ones do not."""
        own = self.options
        stricter = {key: min(float(own.get(key, value)), value) for key, value in _TIGHTENED.items()}
        return replace(self, options={**own, **stricter, **_PATIENT})
