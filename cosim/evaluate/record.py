"""What a run leaves behind, and its HDF5 file (docs/formats/run.md)."""

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
from cosim.files import is_file, write_whole
from cosim.readout import GroupReads

FORMAT = "cosim-run-4"


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """One array layer: its size on the arrays and every pattern that occurred on each of its groups.

    Attributes:
        tiles, reads: arrays used; reads that the images need.
        lsb_units: unit currents a code, the mean over bitlines; highest_code: the converter's largest, None for no
            limit.
        unsettled_lsb: largest movement of a current in the second half of its pulse.
        noise_lsb: of a read, root mean square; currents and codes below are without it.
        trim_gain, trim_gain_spread: mean, and largest less smallest, of the gains that trimming took out, 1 and 0
            without trimming; trim_offset_lsb: mean of the offsets.
        groups: in the order of the plan.
    """

    name: str
    tiles: int
    reads: int
    lsb_units: float
    highest_code: int | None
    unsettled_lsb: float
    noise_lsb: float
    trim_gain: float
    trim_gain_spread: float
    trim_offset_lsb: float
    groups: list[GroupReads]


@dataclass(frozen=True, eq=False)
class AuditRecord:
    """Audit decks of a run: reads, and distinct patterns, simulated in image order, against the pattern tables."""

    decks: int
    reads: int
    patterns: int
    max_error_lsb: float
    differing_codes: int


@dataclass(frozen=True, eq=False)
class Waveform:
    """Bitline currents of the first few reads of an audit deck.

    Attributes:
        title: which deck.
        time_s: (points,); currents_a: (points, bitlines).
        sample_s: (reads,) when the reads are sampled.
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
        labels: (images,) int64.
        logits_float: (images, classes) float32, or None without float weights; logits_software, logits_circuit.
        disagreeing: (m,) indices of images decided differently; disagreeing_images: (m', channels, h, w) of
            the first of them, 0..provenance.image_full_scale.
        levels_shift_v: (levels,) programmed threshold shifts, empty for ideal fidelity.
        audit: of simulated results; certificate: of solved ones, None where it is switched off.
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
        """The same record of a run that took so long in all, loading included."""
        return replace(self, provenance=replace(self.provenance, wall_seconds=seconds))

    def save(self, path: Path) -> None:
        """Write the HDF5 file, whole."""
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
                folder.attrs.update(
                    {name: value for name, value in vars(layer).items() if name != "groups" and value is not None}
                )
                for index, group in enumerate(layer.groups):
                    for field in fields(GroupReads):
                        _put(folder, f"groups/{index}/{field.name}", getattr(group, field.name))
            if self.audit is not None:
                file.create_group("audit").attrs.update(vars(self.audit))
            if self.certificate is not None:
                file.create_group("certificate").attrs.update(vars(self.certificate))
            if self.waveform is not None:
                folder = file.create_group("waveform")
                folder.attrs["title"] = self.waveform.title
                for name in ("time_s", "currents_a", "sample_s"):
                    _put(folder, name, getattr(self.waveform, name))
        write_whole(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read a run's file.

        Raises:
            InputError: no such file, or it is no run of cosim.
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
        """Raise ValueError or LookupError unless the parts fit together."""
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
            for group in layer.groups:
                reads, bitlines = group.lsb.shape
                _check_integers("uses", group.uses, (reads,), 1 << 62)
                _check_integers("patterns", group.patterns, (reads,), 1 << 62)
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
            groups = [
                GroupReads(**{field.name: folder[f"groups/{index}/{field.name}"][()] for field in fields(GroupReads)})
                for index in range(len(folder["groups"]))
            ]
            layers.append(LayerRecord(**{"highest_code": None, **_plain(folder)}, groups=groups))
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


def _check_integers(name: str, values: np.ndarray, shape: tuple[int, ...], bound: int) -> None:
    """Raise ValueError unless these are integers 0..bound-1 of that shape."""
    if values.shape != shape or values.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers of shape {shape}")
    if values.size and (int(values.min()) < 0 or int(values.max()) >= bound):
        raise ValueError(f"{name} must be below {bound}")


def _plain(folder: h5py.Group) -> dict[str, Any]:
    """A group's attributes as Python values."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in folder.attrs.items()}


def _put(folder: h5py.Group, name: str, values: np.ndarray) -> None:
    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if values.size > 4096 else {}
    folder.create_dataset(name, data=values, **packed)
