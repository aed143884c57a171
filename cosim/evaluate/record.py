"""The record of a run, and its HDF5 file (docs/formats/run.md)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from cosim.checked import STRICT, Amount, Count, Number, Text, parse
from cosim.errors import ConfigError, InputError
from cosim.evaluate.certificate import Certificate
from cosim.evaluate.provenance import Provenance
from cosim.evaluate.summary import Densities, GroupFigures, ReadSummary
from cosim.files import is_file
from cosim.hdf5 import Group, Quantity, read_file, write_file
from cosim.network import LayerSpec
from cosim.readout import GroupReads

FORMAT = "cosim-run-8"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Geometry:
    """The geometry of a layer.

    Attributes:
        kind: conv2d or linear.
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel: (height, width).
        stride: (height, width).
        padding: (height, width).
        dilation: (height, width).
        channel_groups: number of groups of channels.
        weight_bits: bits of a weight.
        activation_bits: bits of an activation.
    """

    __pydantic_config__: ClassVar = STRICT

    kind: Text
    in_channels: Count
    out_channels: Count
    kernel: tuple[Count, Count]
    stride: tuple[Count, Count]
    padding: tuple[Count, Count]
    dilation: tuple[Count, Count]
    channel_groups: Count
    weight_bits: Count
    activation_bits: Count

    @classmethod
    def of(cls, layer: LayerSpec) -> Geometry:
        outputs, depth, height, width = layer.weight.shape
        return cls(
            kind=layer.kind,
            in_channels=depth * layer.groups,
            out_channels=outputs,
            kernel=(height, width),
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            channel_groups=layer.groups,
            weight_bits=layer.weight_bits,
            activation_bits=layer.activation_bits,
        )


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """One layer on arrays: where it lies, and the statistics of its reads.

    Attributes:
        name: name of the layer.
        geometry: geometry of the layer.
        tiles: number of arrays used.
        reads: number of reads that the images need.
        lsb_units: width of a code in unit currents, the mean over bitlines.
        highest_code: the converters' largest code, or None for no limit.
        unsettled_lsb: largest movement of a current in the second half of its pulse [LSB].
        noise_lsb: root mean square of the noise of a read [LSB]; `summary` and `kept` are without noise.
        trim_gain: mean of the gains that trimming corrected, 1 without trimming.
        trim_gain_spread: largest less smallest of these gains, 0 without trimming.
        trim_offset_lsb: mean of the offsets that trimming corrected [LSB], 0 without trimming.
        beyond_registers: number of bitlines that need a correction which no register reaches.
        stuck_cells: number of cells in the layer's groups that are stuck.
        replaced_bitlines: number of dead bitlines that spare ones replace.
        dead_bitlines: number of bitlines that are dead and have no spare.
        tile: (groups,) number of the array on which each group lies.
        first_input: (groups,) first input line of each group.
        inputs: (groups,) number of inputs of each group.
        summary: statistics of the reads.
        kept: every read of every group, or None unless `run.keep_reads` is set.
    """

    name: str
    geometry: Geometry
    tiles: int
    reads: int
    lsb_units: float
    highest_code: int | None
    unsettled_lsb: float
    noise_lsb: float
    trim_gain: float
    trim_gain_spread: float
    trim_offset_lsb: float
    beyond_registers: int
    stuck_cells: int
    replaced_bitlines: int
    dead_bitlines: int
    tile: np.ndarray
    first_input: np.ndarray
    inputs: np.ndarray
    summary: ReadSummary
    kept: tuple[GroupReads, ...] | None


@dataclass(frozen=True, eq=False)
class AuditRecord:
    """The audit of a run: reads simulated in image order, compared with the pattern tables.

    Attributes:
        decks: number of decks simulated.
        reads: number of reads in them.
        patterns: number of distinct patterns, summed over decks.
        max_error_lsb: largest difference from the tables [LSB].
        differing_codes: number of codes that differ from those of the tables.
    """

    __pydantic_config__: ClassVar = STRICT

    decks: Count
    reads: Count
    patterns: Count
    max_error_lsb: Amount
    differing_codes: Count


@dataclass(frozen=True, eq=False)
class Waveform:
    """Bitline currents of the first few reads of an audit deck.

    Attributes:
        title: names the deck's layer and group.
        time_s: (points,) times [s].
        currents_a: (points, bitlines) currents [A].
        sample_s: (reads,) times at which the reads are sampled [s].
    """

    title: str
    time_s: np.ndarray
    currents_a: np.ndarray
    sample_s: np.ndarray


@dataclass(frozen=True, eq=False)
class RunRecord:
    """Everything a run found.

    Attributes:
        provenance: how the run came about.
        labels: (images,) int64, the right classes.
        logits_float: (images, classes) float32 of the float network, or None without float weights.
        logits_software: (images, classes) float32 of the integer network.
        logits_circuit: (images, classes) float32 of the circuit.
        disagreeing: (m,) numbers of the images that circuit and integer network decide differently.
        disagreeing_images: (m', channels, h, w) the first of these images, 0..provenance.image_full_scale.
        levels_shift_v: (levels,) programmed threshold shifts [V], empty for ideal fidelity.
        layers: the layers on arrays.
        audit: the audit if currents were simulated, else None.
        certificate: the certificate if currents were solved, None if it is switched off.
        waveform: currents of an audit deck, or None if there are none.
    """

    provenance: Provenance
    labels: np.ndarray
    logits_float: np.ndarray | None
    logits_software: np.ndarray
    logits_circuit: np.ndarray
    disagreeing: np.ndarray
    disagreeing_images: np.ndarray
    levels_shift_v: np.ndarray
    layers: list[LayerRecord]
    audit: AuditRecord | None
    certificate: Certificate | None
    waveform: Waveform | None

    def with_wall_seconds(self, seconds: float) -> RunRecord:
        """A copy of the record with the given wall time, which includes loading."""
        return replace(self, provenance=replace(self.provenance, wall_seconds=seconds))

    def save(self, path: Path) -> None:
        """Write the HDF5 file, such that no reader sees a part of it."""
        file = Group(attributes={"format": FORMAT, "provenance": json.dumps(self.provenance.to_json())}).put(
            _OF_RUN, vars(self)
        )
        layers = {str(number): _layer_group(layer) for number, layer in enumerate(self.layers)}
        file.groups["layers"] = Group(groups=layers)
        if self.audit is not None:
            file.groups["audit"] = Group(attributes=asdict(self.audit))
        if self.certificate is not None:
            file.groups["certificate"] = Group(attributes=asdict(self.certificate))
        if self.waveform is not None:
            shown = vars(self.waveform)
            file.groups["waveform"] = Group(attributes={"title": shown["title"]}).put(_OF_WAVEFORM, shown)
        write_file(path, file)

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read a run's file.

        Raises:
            InputError: there is no such file, or it is not as cosim writes it.
            MachineError: no process can be started to read it.
        """
        if not is_file(path):
            raise InputError(f"no run at {path}: name a file that `cosim infer --out` wrote")
        try:
            return cls._read(read_file(path))
        except (OSError, ValueError, ConfigError) as error:
            raise InputError(
                f"{path} is not a run as cosim writes it ({error}): use an undamaged copy, or repeat `cosim infer`"
            ) from error

    @classmethod
    def _read(cls, file: Group) -> RunRecord:
        """Make the record from a file's content.

        Raises:
            ValueError, ConfigError: the content is not a record; no part of it is used.
        """
        if file.attributes.get("format") != FORMAT:
            raise ValueError(f"format {file.attributes.get('format')!r:.80}, expected {FORMAT!r}")
        came = Provenance.from_json(str(file.attributes.get("provenance")))
        arrays = file.take(_OF_RUN, {"images": came.images}, optional=("logits_float",))
        _check_decisions(arrays)
        layers = file.group("layers").numbered()
        if not layers:
            raise ValueError("a run must have a layer on arrays")
        waveform = file.groups.get("waveform")
        return cls(
            provenance=came,
            layers=[_layer_record(layer) for layer in layers],
            audit=_attributes(AuditRecord, file.groups["audit"]) if "audit" in file.groups else None,
            certificate=_attributes(Certificate, file.groups["certificate"]) if "certificate" in file.groups else None,
            waveform=None if waveform is None else _waveform(waveform),
            **arrays,
        )


@dataclass(frozen=True)
class _Figures:
    """The attributes of a layer in its file, without its geometry; None is left out."""

    __pydantic_config__: ClassVar = STRICT

    name: Text
    tiles: Count
    reads: Count
    lsb_units: Amount
    unsettled_lsb: Amount
    noise_lsb: Amount
    trim_gain: Number
    trim_gain_spread: Amount
    trim_offset_lsb: Number
    beyond_registers: Count
    stuck_cells: Count
    replaced_bitlines: Count
    dead_bitlines: Count
    highest_code: Count | None = None
    correlation: Number | None = None


@dataclass(frozen=True)
class _Title:
    """The attributes of a waveform in its file."""

    __pydantic_config__: ClassVar = STRICT

    title: Text


# Every dataset of a file.
_OF_RUN = {
    "labels": Quantity("count", "images", "the right class of each image"),
    "logits_float": Quantity("finite", "images classes", "of each image and class, in the float network"),
    "logits_software": Quantity("finite", "images classes", "of each image and class, in the integer network"),
    "logits_circuit": Quantity("finite", "images classes", "of each image and class, on the circuit"),
    "disagreeing": Quantity("count", "disagreeing", "images that circuit and integer network decide differently"),
    "disagreeing_images": Quantity("real", "kept channels height width", "the first of them, 0 to image_full_scale"),
    "levels_shift_v": Quantity("real", "levels", "programmed threshold shift of each level", "V"),
}
_OF_WAVEFORM = {
    "time_s": Quantity("real", "points", "points of the waveform", "s"),
    "currents_a": Quantity("real", "points lines", "output lines' currents at these points", "A"),
    "sample_s": Quantity("real", "samples", "when reads are sampled", "s"),
}
_OF_LAYER = {
    "tile": Quantity("count", "groups", "the array on which each group lies"),
    "first_input": Quantity("count", "groups", "its first input line, 0 at the sense end"),
    "inputs": Quantity("count", "groups", "how many input lines it opens"),
}
_OF_GROUPS = {
    "reads": Quantity("count", "groups", "reads of each group that the images need"),
    "patterns": Quantity("count", "groups", "distinct ones"),
    "conversions": Quantity("count", "groups", "codes of these reads, one a read and output line"),
    "differing_codes": Quantity(
        "count", "groups", "of these, other than of an ideal array behind converters without errors"
    ),
    "clipped_codes": Quantity("count", "groups", "of these, lost at an end of the converter's range"),
    "error_mean_lsb": Quantity(
        "real", "groups", "mean error of a current over every conversion, circuit less ideal array", "LSB"
    ),
    "error_rms_lsb": Quantity("real", "groups", "its root mean square", "LSB"),
    "error_max_lsb": Quantity("real", "groups", "its largest absolute value", "LSB"),
}
_OF_DENSITIES = {
    "current_edges_lsb": Quantity("real", "current_edges", "edges of equally wide bins of currents", "LSB"),
    "error_edges_lsb": Quantity("real", "error_edges", "edges of equally wide bins of errors", "LSB"),
    "circuit": Quantity("count", "currents currents", "conversions by ideal current and the circuit's"),
    "error": Quantity("count", "currents errors", "conversions by ideal current and error"),
}
_OF_KEPT = {
    "patterns": Quantity("integer", "reads", "every read that occurred, as docs/formats/run.md numbers them"),
    "uses": Quantity("count", "reads", "how many of it the images need"),
    "lsb": Quantity("real", "reads lines", "positions in codes, unrounded and without noise", "LSB"),
    "codes": Quantity("integer", "reads lines", "the converter's codes"),
    "ideal": Quantity("real", "reads lines", "positions of an ideal array behind converters without errors", "LSB"),
    "ideal_codes": Quantity("integer", "reads lines", "codes of these"),
}


def _layer_group(layer: LayerRecord) -> Group:
    """The group of a layer in the file."""
    figures = {**vars(layer), "correlation": layer.summary.correlation}
    known = {each.name: figures[each.name] for each in fields(_Figures) if figures[each.name] is not None}
    group = Group(attributes={**known, **asdict(layer.geometry)}).put(_OF_LAYER, vars(layer))
    group.groups["groups"] = Group().put(_OF_GROUPS, vars(layer.summary.groups))
    group.groups["densities"] = Group().put(_OF_DENSITIES, vars(layer.summary.densities))
    if layer.kept is not None:
        kept = {str(number): Group().put(_OF_KEPT, vars(reads)) for number, reads in enumerate(layer.kept)}
        group.groups["kept"] = Group(groups=kept)
    return group


def _layer_record(group: Group) -> LayerRecord:
    """Make the record of a layer from its group, and check that its parts fit together.

    Raises:
        ValueError: they do not.
    """
    own = {name: value for name, value in group.attributes.items() if name not in _GEOMETRY}
    figures = asdict(parse(_Figures, json.dumps(own)))
    geometry = {name: group.attributes.get(name) for name in _GEOMETRY}
    sizes: dict[str, int] = {}
    places = group.take(_OF_LAYER, sizes)
    counted = GroupFigures(**group.group("groups").take(_OF_GROUPS, sizes))
    densities = Densities(**group.group("densities").take(_OF_DENSITIES, sizes))
    if counted.conversions.sum() == 0:
        raise ValueError("a layer must have a conversion")
    for edges, bins in (("current_edges_lsb", "currents"), ("error_edges_lsb", "errors")):
        values = getattr(densities, edges)
        if len(values) != sizes[bins] + 1 or not (np.diff(values) > 0).all():
            raise ValueError(f"{edges} must be {sizes[bins] + 1} rising numbers")
    kept = None
    if "kept" in group.groups:
        kept = tuple(GroupReads(**reads.take(_OF_KEPT, {})) for reads in group.groups["kept"].numbered())
        if len(kept) != sizes["groups"]:
            raise ValueError(f"reads must be kept of {sizes['groups']} groups, found {len(kept)}")
    summary = ReadSummary(counted, densities, figures.pop("correlation"))
    shape = parse(Geometry, json.dumps(geometry))
    return LayerRecord(geometry=shape, summary=summary, kept=kept, **figures, **places)


_GEOMETRY = tuple(field.name for field in fields(Geometry))


def _waveform(group: Group) -> Waveform:
    title = _attributes(_Title, group).title
    return Waveform(title, **group.take(_OF_WAVEFORM, {}))


def _attributes(kind: type[_T], group: Group) -> _T:
    """A group's attributes as a value of a type."""
    return parse(kind, json.dumps(group.attributes))


def _check_decisions(arrays: dict[str, np.ndarray]) -> None:
    """Check that labels and decisions fit the logits.

    Raises:
        ValueError: they do not.
    """
    images, classes = arrays["logits_circuit"].shape
    if images == 0 or classes == 0 or arrays["labels"].max() >= classes:
        raise ValueError(f"there must be an image, and labels must be below {classes}, the number of logits")
    differing = np.flatnonzero(arrays["logits_circuit"].argmax(1) != arrays["logits_software"].argmax(1))
    if not np.array_equal(arrays["disagreeing"], differing):
        raise ValueError(f"disagreeing must be the {len(differing)} images that the logits decide differently")
    kept = arrays["disagreeing_images"]
    if len(kept) > len(differing) or (len(kept) and not kept.size):
        raise ValueError("disagreeing_images must be pictures of the first of them")
