"""The record of a run, and its HDF5 file (docs/formats/run.md)."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cosim.errors import InputError
from cosim.evaluate.certificate import Certificate
from cosim.evaluate.provenance import Provenance
from cosim.evaluate.summary import Densities, GroupFigures, ReadSummary
from cosim.files import is_file, write_whole
from cosim.network import LayerSpec
from cosim.readout import GroupReads

FORMAT = "cosim-run-6"


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

    kind: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    channel_groups: int
    weight_bits: int
    activation_bits: int

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

    decks: int
    reads: int
    patterns: int
    max_error_lsb: float
    differing_codes: int


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
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file.attrs["format"] = FORMAT
            file.attrs["provenance"] = json.dumps(self.provenance.to_json(), sort_keys=True)
            for name in _ARRAYS:
                values = getattr(self, name)
                if values is not None:
                    _put(file, name, values)
            for number, layer in enumerate(self.layers):
                folder = file.create_group(f"layers/{number}")
                figures = {**vars(layer), **vars(layer.geometry), "correlation": layer.summary.correlation}
                folder.attrs.update({name: figures[name] for name in _FIGURES if figures[name] is not None})
                for name in _PLACES:
                    _put(folder, name, getattr(layer, name))
                parts: dict[str, Any] = {"groups": layer.summary.groups, "densities": layer.summary.densities}
                parts |= {f"kept/{index}": group for index, group in enumerate(layer.kept or ())}
                for part, values in parts.items():
                    for field in fields(values):
                        _put(folder, f"{part}/{field.name}", getattr(values, field.name))
            if self.audit is not None:
                file.create_group("audit").attrs.update(vars(self.audit))
            if self.certificate is not None:
                file.create_group("certificate").attrs.update(vars(self.certificate))
            if self.waveform is not None:
                folder = file.create_group("waveform")
                folder.attrs["title"] = self.waveform.title
                for name in ("time_s", "currents_a", "sample_s"):
                    _put(file, f"waveform/{name}", getattr(self.waveform, name))
        write_whole(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read a run's file.

        Raises:
            InputError: there is no such file, or cosim did not write it as a run.
        """
        if not is_file(path):
            raise InputError(f"no run at {path}: name a file that `cosim infer --out` wrote")
        try:
            with h5py.File(path, "r") as file:
                record = cls._read(file)
            record.check()
            return record
        except (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError, RuntimeError,
                TypeError, ValueError) as error:  # fmt: skip
            raise InputError(f"{path} is no run that cosim wrote ({error}): repeat `cosim infer`") from error

    def check(self) -> None:
        """Check that the parts of the record fit together.

        Raises:
            ValueError, LookupError: they do not.
        """
        images, classes = self.logits_circuit.shape
        for logits in (self.logits_software, self.logits_circuit, self.logits_float):
            if logits is not None and (logits.shape != (images, classes) or not np.isfinite(logits).all()):
                raise ValueError(f"logits must be finite and of shape {(images, classes)}")
        _check_integers("labels", self.labels, (images,), classes)
        _check_integers("disagreeing", self.disagreeing, self.disagreeing.shape, images)
        if self.disagreeing.ndim != 1 or self.disagreeing_images.ndim != 4:
            raise ValueError("images decided differently must be a list")
        if images == 0 or len(self.disagreeing_images) > len(self.disagreeing):
            raise ValueError("there must be an image, and no more pictures than images decided differently")
        for layer in self.layers:
            _check_layer(layer)
            if layer.kept is not None and len(layer.kept) != len(layer.inputs):
                raise ValueError(f"reads must be kept of {len(layer.inputs)} groups, found {len(layer.kept)}")
            for group in layer.kept or ():
                reads, bitlines = group.lsb.shape
                _check_integers("uses", group.uses, (reads,), 1 << 62)
                if group.patterns.shape != (reads,) or group.patterns.dtype.kind not in "iu":
                    raise ValueError(f"patterns must be integers of shape {(reads,)}")
                for values in (group.codes, group.ideal_codes, group.ideal):
                    if values.shape != (reads, bitlines) or not np.isfinite(values).all():
                        raise ValueError(f"codes and currents must be finite and of shape {(reads, bitlines)}")

    @classmethod
    def _read(cls, file: h5py.File) -> RunRecord:
        if file.attrs["format"] != FORMAT:
            raise ValueError(f"format {file.attrs['format']!r}, expected {FORMAT!r}")
        layers = []
        for number in range(len(file["layers"])):
            folder = file[f"layers/{number}"]
            figures: dict[str, Any] = {"highest_code": None, "correlation": None, **_plain(folder)}
            summary = ReadSummary(
                _arrays(GroupFigures, folder["groups"]), _arrays(Densities, folder["densities"]), figures["correlation"]
            )
            kept = None
            if "kept" in folder:
                kept = tuple(_arrays(GroupReads, folder[f"kept/{index}"]) for index in range(len(folder["kept"])))
            own = {name: figures[name] for name in _FIGURES if name in _OWN}
            places: dict[str, Any] = {name: folder[name][()] for name in _PLACES}
            geometry = Geometry(**{field.name: figures[field.name] for field in fields(Geometry)})
            layers.append(LayerRecord(geometry=geometry, summary=summary, kept=kept, **own, **places))
        audit = AuditRecord(**_plain(file["audit"])) if "audit" in file else None
        certificate = Certificate(**_plain(file["certificate"])) if "certificate" in file else None
        waveform = None
        if "waveform" in file:
            folder = file["waveform"]
            waveform = Waveform(
                str(folder.attrs["title"]),
                folder["time_s"][()],
                folder["currents_a"][()],
                folder["sample_s"][()],
            )
        arrays: dict[str, Any] = {name: file[name][()] if name in file else None for name in _ARRAYS}
        return cls(
            provenance=Provenance.from_json(json.loads(file.attrs["provenance"])),
            layers=layers,
            audit=audit,
            certificate=certificate,
            waveform=waveform,
            **arrays,
        )


_ARRAYS = (
    "labels",
    "logits_float",
    "logits_software",
    "logits_circuit",
    "disagreeing",
    "disagreeing_images",
    "levels_shift_v",
)
# Attributes of a layer in the file: first its own, then those of its geometry and its summary.
_OWN = ("name", "tiles", "reads", "lsb_units", "highest_code", "unsettled_lsb", "noise_lsb", "trim_gain",
        "trim_gain_spread", "trim_offset_lsb", "beyond_registers")  # fmt: skip
_FIGURES = (*_OWN, *(field.name for field in fields(Geometry)), "correlation")
_PLACES = ("tile", "first_input", "inputs")

# Unit and description of every dataset, by its name in the file or in a layer.
_ABOUT = {
    "labels": ("", "the right class of each image"),
    "logits_float": ("", "of each image and class, in the float network"),
    "logits_software": ("", "of each image and class, in the integer network"),
    "logits_circuit": ("", "of each image and class, on the circuit"),
    "disagreeing": ("", "images that circuit and integer network decide differently"),
    "disagreeing_images": ("", "the first of them (images, channels, height, width), 0 to image_full_scale"),
    "levels_shift_v": ("V", "programmed threshold shift of each level"),
    "waveform/time_s": ("s", "points of the waveform"),
    "waveform/currents_a": ("A", "output lines' currents at these points (points, lines)"),
    "waveform/sample_s": ("s", "when reads are sampled"),
    "tile": ("", "the array on which each group lies"),
    "first_input": ("", "its first input line, 0 at the sense end"),
    "inputs": ("", "how many input lines it opens"),
    "groups/reads": ("", "reads of each group that the images need"),
    "groups/patterns": ("", "distinct ones"),
    "groups/conversions": ("", "codes of these reads, one a read and output line"),
    "groups/differing_codes": ("", "of these, other than of an ideal array behind converters without errors"),
    "groups/clipped_codes": ("", "of these, lost at an end of the converter's range"),
    "groups/error_mean_lsb": ("LSB", "mean error of a current over every conversion, circuit less ideal array"),
    "groups/error_rms_lsb": ("LSB", "its root mean square"),
    "groups/error_max_lsb": ("LSB", "its largest absolute value"),
    "densities/current_edges_lsb": ("LSB", "edges of equally wide bins of currents"),
    "densities/error_edges_lsb": ("LSB", "edges of equally wide bins of errors"),
    "densities/circuit": ("", "conversions by ideal current and the circuit's (ideal, circuit)"),
    "densities/error": ("", "conversions by ideal current and error (ideal, error)"),
    "kept/patterns": ("", "every read that occurred on the group, as docs/formats/run.md numbers them"),
    "kept/uses": ("", "how many of it the images need"),
    "kept/lsb": ("LSB", "positions in codes, unrounded and without noise (reads, lines)"),
    "kept/codes": ("", "the converter's codes (reads, lines)"),
    "kept/ideal": ("LSB", "positions of an ideal array behind converters without errors (reads, lines)"),
    "kept/ideal_codes": ("", "codes of these (reads, lines)"),
}


def _check_integers(name: str, values: np.ndarray, shape: tuple[int, ...], bound: int) -> None:
    """Raise ValueError unless the values are integers 0..bound-1 of the given shape."""
    if values.shape != shape or values.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers of shape {shape}")
    if values.size and (int(values.min()) < 0 or int(values.max()) >= bound):
        raise ValueError(f"{name} must be below {bound}")


def _check_layer(layer: LayerRecord) -> None:
    """Raise ValueError unless a layer's places, figures and densities fit together."""
    places = {name: getattr(layer, name) for name in _PLACES}
    figures, densities = vars(layer.summary.groups), layer.summary.densities
    for name, values in {**places, **figures}.items():
        if values.shape != layer.inputs.shape or not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite and of shape {layer.inputs.shape}, one a group")
        if not name.startswith("error"):
            _check_integers(name, values, values.shape, 1 << 62)
    currents, errors = len(densities.current_edges_lsb) - 1, len(densities.error_edges_lsb) - 1
    _check_integers("circuit", densities.circuit, (currents, currents), 1 << 62)
    _check_integers("error", densities.error, (currents, errors), 1 << 62)


def _arrays(kind: type[Any], folder: h5py.Group) -> Any:
    """Make a dataclass of arrays, each read from the dataset with its name."""
    return kind(**{field.name: folder[field.name][()] for field in fields(kind)})


def _plain(folder: h5py.Group) -> dict[str, Any]:
    """A group's attributes as Python values."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return tuple(value.tolist())
        return value.item() if isinstance(value, np.generic) else value

    return {name: plain(value) for name, value in folder.attrs.items()}


def _put(folder: h5py.Group, name: str, values: np.ndarray) -> None:
    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if values.size > 4096 else {}
    dataset = folder.create_dataset(name, data=values, **packed)
    place, _, last = name.rpartition("/")
    unit, meaning = _ABOUT[f"{place.partition('/')[0]}/{last}" if place else last]
    dataset.attrs.update(unit=unit, description=meaning)
