"""The certificate of a run: a random sample of the reads that its images caused, simulated as transients.

A fast source gives settled currents and cannot tell how far they are from those of the circuit. A certificate draws
reads over all layers, tiles and groups, each with a probability proportional to how often it occurred. It simulates
them with ngspice in the full deck of their group, and compares the positions in codes. If all n of them are within a
distance d, then, with confidence 1 - a, at most the share 1 - a^(1/n) of all reads is off by more than d: a larger
share would have shown up in the sample.

Reads that were chosen because they are hard are added. They do not tell how frequent an error is, and only decide
whether the result is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from cosim.checked import STRICT, Amount, Count, Text
from cosim.currents import SpiceSource, transients_of
from cosim.errors import SimulationError
from cosim.evaluate.array_layer import ArrayLayer
from cosim.evaluate.distance import Distance, Question, measure_distances
from cosim.spice.ngspice import Rejected

CONFIDENCE = 0.999
# Makes the draws of certificates independent of those of audits, which have the same seed.
_STREAM = 0x63657274


@dataclass(frozen=True)
class Certificate:
    """How far a run's reads are from transients.

    Attributes:
        reads: number of reads drawn, with replacement, each with a probability proportional to its frequency.
        max_error_lsb: their largest distance on any output line [LSB].
        rms_error_lsb: root mean square of their distances over all output lines [LSB].
        codes_differing: on how many of their output lines the converter gives another code. A position on the edge
            between two codes may do so however small the distance is.
        unsettled_lsb: how far the least settled current of all reads, drawn or adverse, still moved in the second half
            of its pulse [LSB].
        adverse_reads: number of hard reads that were added.
        adverse_max_error_lsb: their largest distance [LSB].
        layer: name of the layer with the largest distance of all.
        group: number of the group with that distance.
        read: the read with that distance, as the states 0 and 1 of the group's inputs, the last input first, and the
            share of the full voltage if it is not 1.
    """

    __pydantic_config__: ClassVar = STRICT

    reads: Annotated[Count, Field(ge=1)]
    max_error_lsb: Amount
    rms_error_lsb: Amount
    codes_differing: Count
    unsettled_lsb: Amount
    adverse_reads: Count
    adverse_max_error_lsb: Amount
    layer: Text
    group: Count
    read: Text

    @property
    def share(self) -> float:
        """The share of all reads that may at most be off by more than `max_error_lsb`, with 99.9 % confidence."""
        return largest_share(self.reads)


def largest_share(reads: int, confidence: float = CONFIDENCE) -> float:
    """The largest share of all reads that may be farther off than every one of `reads` drawn reads.

    If the share s of all reads is farther off, then n independent draws miss it with probability (1 - s)^n. The bound
    is the share for which this probability is 1 - confidence.
    """
    return 1 - (1 - confidence) ** (1 / reads)


def certify_circuit(arrays: Sequence[ArrayLayer]) -> Certificate | None:
    """Compare the tables of layers that share a source with transients.

    Args:
        arrays: layers that have answered images; layers without a read are left out.

    Returns:
        the certificate, or None if `run.certificate_reads` is 0 or there was no read.

    Raises:
        ConfigError: the source has ideal cells, for which there is no circuit.
        SimulationError: a read is farther off than `run.certificate_lsb`, or ngspice failed.
    """
    read = [array for array in arrays if array.reads]
    if not read or not read[0].chip.config.run.certificate_reads:
        return None
    run, source = read[0].chip.config.run, transients_of(read[0].chip.source)
    drawn = list(_drawn(read, run.certificate_reads, run.patterns_per_deck, run.seed))
    questions = [question for question, _ in drawn] + [each for array in read for each in _adverse(array)]
    distances = measure_distances(questions, source, "certificate")
    certificate = _summary(distances, [times for _, times in drawn])
    if not max(certificate.max_error_lsb, certificate.adverse_max_error_lsb) <= run.certificate_lsb:
        _refuse(certificate, _worst(distances), run.certificate_lsb, source)
    return certificate


def _drawn(arrays: Sequence[ArrayLayer], count: int, per_deck: int, seed: int) -> Iterator[tuple[Question, np.ndarray]]:
    """Draw `count` reads independently, each with a probability proportional to how often it occurred.

    Yields questions of at most `per_deck` reads of a group, in the order in which they were first drawn, and how often
    each read was drawn.
    """
    rng = np.random.default_rng((seed, _STREAM))
    groups = [(array, index) for array in arrays for index in range(len(array.plan.groups))]
    totals = np.array([array.table.occurred(index)[1].sum() for array, index in groups], float)
    for (array, index), draws in zip(groups, rng.multinomial(count, totals / totals.sum()).tolist(), strict=True):
        if not draws:
            continue
        reads, uses = array.table.occurred(index)
        ends = np.cumsum(uses)
        places = np.searchsorted(ends, rng.integers(ends[-1], size=draws), side="right")
        distinct, first, times = np.unique(places, return_index=True, return_counts=True)
        order = np.argsort(first)
        for start in range(0, len(order), per_deck):
            few = order[start : start + per_deck]
            chosen = reads[distinct[few]]
            request = array.reader.request(index, array.table.drive(index, chosen))
            yield Question(array, index, request, array.table.lookup(index, chosen)), times[few]


def _adverse(array: ArrayLayer) -> Iterator[Question]:
    """Yield reads that are hard to settle and to solve.

    They are reads of three groups: the group farthest from the sense end, the group whose cells conduct most, and the
    group with the heaviest output line. The reads open all inputs after none was open, no input after all were open,
    the farthest input alone, and the inputs that load the heaviest output line most.
    """
    groups = array.plan.groups
    by = (
        [group.first_input for group in groups],
        [int(group.units.sum()) for group in groups],
        [int(group.units.sum(axis=0).max()) for group in groups],
    )
    for index in sorted({int(np.argmax(values)) for values in by}):
        units = groups[index].units.astype(int)
        inputs = len(units)
        heaviest = units[:, units.sum(axis=0).argmax()]
        none, every, farthest = np.zeros(inputs), np.ones(inputs), np.arange(inputs) == inputs - 1
        reads = [none, every, none, farthest, every, heaviest >= heaviest.max() / 2]
        yield Question(array, index, array.reader.request(index, np.array(reads, float), careful=True))


def _summary(distances: Sequence[Distance], times: Sequence[np.ndarray]) -> Certificate:
    """Summarize distances: those of drawn reads come first, and `times` says how often each read was drawn."""
    drawn, adverse = distances[: len(times)], distances[len(times) :]
    errors = [np.abs(each.error_lsb) for each in drawn]
    lines = sum(int(often.sum()) * error.shape[1] for often, error in zip(times, errors, strict=True))
    squares = sum(
        float(often @ (error.astype(float) ** 2).sum(axis=1)) for often, error in zip(times, errors, strict=True)
    )
    worst, number = _worst(distances)
    return Certificate(
        reads=int(sum(often.sum() for often in times)),
        max_error_lsb=max(float(error.max()) for error in errors),
        rms_error_lsb=float(np.sqrt(squares / lines)),
        codes_differing=int(
            sum(often @ each.codes_differ.sum(axis=1) for often, each in zip(times, drawn, strict=True))
        ),
        unsettled_lsb=max(float(each.unsettled_lsb.max()) for each in distances),
        adverse_reads=sum(len(each.held_lsb) for each in adverse),
        adverse_max_error_lsb=max(each.max_error_lsb for each in adverse),
        layer=worst.layer,
        group=worst.group,
        read=_read_text(worst.request.drive[number]),
    )


def _worst(distances: Sequence[Distance]) -> tuple[Distance, int]:
    """Find the largest distance. Returns its entry in `distances`, and the number of the read in it."""
    worst = max(distances, key=lambda each: each.max_error_lsb)
    return worst, int(np.abs(worst.error_lsb).max(axis=1).argmax())


def _read_text(drive: np.ndarray) -> str:
    """The states of the inputs as text, the last input first, and the shares of their voltage if these are not 1."""
    shares = np.unique(drive[drive > 0])
    if len(shares) > 1:
        return " ".join(f"{share:.4g}" for share in drive[::-1]) + " of the voltage"
    states = "".join("1" if share > 0 else "0" for share in drive[::-1])
    return states if (shares == 1).all() else f"{states} at {shares[0]:.4g} of the voltage"


def _refuse(certificate: Certificate, worst: tuple[Distance, int], allowed_lsb: float, source: SpiceSource) -> None:
    """Keep the deck of the worst read as a failure, and refuse the result.

    Raises:
        SimulationError: always.
    """
    distance, number = worst
    deck = source.deck(distance.request)
    largest = float(np.abs(distance.error_lsb[number]).max())
    where = f"layer {certificate.layer}, group {certificate.group}, read {certificate.read}"
    reason = (
        f"{where} is off by {largest:.3g} LSB against its transient, expected at most run.certificate_lsb = "
        f"{allowed_lsb:g}"
    )
    rows = [
        f"{line:6d} {held:14.6f} {found:14.6f}"
        for line, (held, found) in enumerate(zip(distance.held_lsb[number], distance.found_lsb[number], strict=True))
    ]
    place = f"it is read {number} of the deck, counted from 0, sampled at {deck.samples[number]:.6g} s"
    log = "\n".join([reason, place, "  line   source [LSB]    ngspice [LSB]", *rows]) + "\n"
    folder, repeat = source.simulator.store.record_failure(deck.identity(source.identity), deck, Rejected(reason, log))
    raise SimulationError(
        f"the certificate refuses this result: {reason}\n"
        f"  {place}; deck and both sources' positions are kept in {folder}\n"
        f"  repeat it: {repeat}\n"
        '  choose run.fidelity = "tran" for this configuration, lengthen read.pulse_s if reads do not settle '
        f"(the least settled still moved by {certificate.unsettled_lsb:.2g} LSB), or raise run.certificate_lsb"
    )
