"""Attribution: goes from the ideal network to the full circuit, one effect at a time.

An effect is a set of configuration keys that go from their ideal to their configured values. Each effect is measured
alone, and cumulatively, on top of all effects before it. The last cumulative circuit is thus the configured one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosim.config import Config
from cosim.datasets import Dataset
from cosim.evaluate.comparison import Accuracy
from cosim.evaluate.provenance import Provenance
from cosim.experiments.bench import Bench, Outcome
from cosim.network import Network
from cosim.progress import log, progress_bar


@dataclass(frozen=True)
class Effect:
    """A set of configuration keys that act together.

    Attributes:
        name: name of the effect.
        ideal: the keys, as section.key, each with the value at which it does nothing.
        of_cells: whether the effect exists only with cells in the circuit; "alone" then means together with them.
    """

    name: str
    ideal: Mapping[str, Any]
    of_cells: bool = True


CELLS = "cells"
# The effects, in the order in which they are added. That of cells is the non-linearity and leakage of open cells, and
# the influence of closed cells.
EFFECTS = (
    Effect("rescaling", {"run.rescale": "float"}, of_cells=False),
    Effect(CELLS, {"run.fidelity": "ideal", "array.closed_wordlines": "omitted"}),
    Effect(
        "wires",
        {
            "array.bitline_res_ohm": 0.0,
            "array.bitline_cap_f": 0.0,
            "array.coupling_cap_f": 0.0,
            "array.wordline_res_ohm": 0.0,
            "array.wordline_cap_f": 0.0,
            "array.source_res_ohm": 0.0,
            "array.source_cap_f": 0.0,
        },
    ),
    # Its transistors differ only if it has some.
    Effect(
        "sense stage",
        {"sense.stage": "clamp", "variation.sense_avt_v_m": 0.0, "variation.sense_abeta_m": 0.0},
    ),
    Effect(
        "sense mismatch", {"variation.sense_gain_sigma": 0.0, "variation.sense_offset_sigma_a": 0.0}, of_cells=False
    ),
    Effect(
        "converter",
        {
            "adc.bits": "lossless",
            "adc.range": "cover",
            "adc.full_scale_units": None,
            "adc.offset_lsb": 0.0,
            "adc.gain_error": 0.0,
            "adc.capacitor_sigma": 0.0,
        },
        of_cells=False,
    ),
    Effect(
        "program error",
        {"programming.method": "normal", "variation.program_sigma_v": 0.0, "variation.program_sigma_rel": 0.0},
    ),
    Effect("defects", {"defects.off_share": 0.0, "defects.on_share": 0.0, "defects.bitline_share": 0.0}),
    Effect("drift", {"variation.retention_s": 0.0}),
    Effect(
        "noise",
        {"variation.read_sigma_rel": 0.0, "adc.noise_lsb": 0.0},
        of_cells=False,
    ),
    Effect("traps", {"variation.telegraph_traps": 0.0}),
    Effect("corner", {"corner.process": "tt", "corner.temperature_c": 27.0, "corner.supply": 1.0}),
    # Verify hides it at the nominal corner, so that it does nothing alone.
    Effect(
        "cell mismatch",
        {
            "variation.gain_factor_sigma": 0.0,
            "variation.coupling_sigma": 0.0,
            "variation.tempco_sigma_v_per_k": 0.0,
        },
    ),
    Effect("trimming", {"trim.method": "none", "adc.reference": "fixed"}, of_cells=False),
)


@dataclass(frozen=True, eq=False)
class Contribution:
    """What one effect does.

    Attributes:
        name: name of the effect.
        keys: key -> configured value, for the keys that are not ideal; empty if the configuration lacks this effect.
        alone: outcome with this effect only, or None if the configuration lacks it.
        cumulative: outcome with this effect and all effects before it, or None if the configuration lacks it.
    """

    name: str
    keys: dict[str, Any]
    alone: Outcome | None
    cumulative: Outcome | None


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each effect costs.

    Attributes:
        provenance: network, data set, versions, and the configuration of the whole circuit.
        accuracy_float: accuracy of the float network, or None without float weights.
        accuracy_software: accuracy of the integer network.
        quantization: number of images that float and integer network decide differently, or None without float weights.
        ideal: outcome of the circuit without any effect.
        contributions: what each effect does, in the order of EFFECTS.
    """

    provenance: Provenance
    accuracy_float: Accuracy | None
    accuracy_software: Accuracy
    quantization: int | None
    ideal: Outcome
    contributions: tuple[Contribution, ...]

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values, for JSON."""

        def figures(outcome: Outcome | None) -> dict[str, Any] | None:
            if outcome is None:
                return None
            return {"accuracy": outcome.accuracy, "disagreements": outcome.disagreements, **outcome.figures()}

        return {
            **self.provenance.to_json(),
            "accuracy_float": None if self.accuracy_float is None else self.accuracy_float.share,
            "accuracy_software": self.accuracy_software.share,
            "disagreements_quantization": self.quantization,
            "ideal": figures(self.ideal),
            "effects": [
                {
                    "name": each.name,
                    "keys": each.keys,
                    "alone": figures(each.alone),
                    "cumulative": figures(each.cumulative),
                }
                for each in self.contributions
            ],
        }


def attribute(
    network: Network, dataset: Dataset, config: Config | None = None, *, store: str | Path | None = None
) -> Attribution:
    """Measure every effect of a configuration on the same images.

    Args:
        network: the quantized network.
        dataset: the images.
        config: the configuration of the whole circuit; None for the default one.
        store: directory of simulation results; None for $COSIM_STORE or the user's cache directory.

    Raises:
        DatasetError, NetworkError: there is no image, or images do not fit the network.
        ConfigError, CardError, MachineError, SimulationError: as `CircuitNetwork` raises them.
    """
    started = time.perf_counter()
    config, bench = config or Config(), Bench(network, dataset, store)
    present = {effect.name: _keys(effect, config) for effect in EFFECTS}
    ideal = config.with_values({key: value for effect in EFFECTS for key, value in effect.ideal.items()})
    measured: dict[Config, Outcome] = {}
    contributions, added = [], dict[str, Any]()
    with progress_bar("effects", 1 + 2 * sum(map(bool, present.values()))) as advance:

        def outcome(values: dict[str, Any], title: str) -> Outcome:
            point = ideal.with_values(values)
            if point not in measured:
                advance(0, note=title)
                measured[point] = bench.measure(point)
                log(f"{title}: {100 * measured[point].accuracy:.2f} %")
            advance(1)
            return measured[point]

        nothing = outcome({}, "ideal")
        for effect in EFFECTS:
            keys = present[effect.name]
            if not keys:
                contributions.append(Contribution(effect.name, {}, None, None))
                continue
            added |= keys
            with_cells = {**present[CELLS], **keys} if effect.of_cells else keys
            alone, cumulative = outcome(with_cells, f"{effect.name} alone"), outcome(added, f"and {effect.name}")
            contributions.append(Contribution(effect.name, keys, alone, cumulative))
    software = bench.right(bench.software)
    floating = bench.floating
    return Attribution(
        provenance=bench.provenance(config, time.perf_counter() - started),
        accuracy_float=None if floating is None else _accuracy(bench.right(floating)),
        accuracy_software=_accuracy(software),
        quantization=None if floating is None else int((floating != bench.software).sum()),
        ideal=nothing,
        contributions=tuple(contributions),
    )


def _keys(effect: Effect, config: Config) -> dict[str, Any]:
    """The keys of an effect that are not ideal in a configuration, with their configured values."""
    if effect.of_cells and config.run.fidelity == "ideal":
        return {}
    configured = {key: config.value(key) for key in effect.ideal}
    return {key: value for key, value in configured.items() if value != effect.ideal[key]}


def _accuracy(right: Any) -> Accuracy:
    return Accuracy(int(right.sum()), len(right))
