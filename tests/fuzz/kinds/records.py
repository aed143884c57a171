"""Records of runs (HDF5), given to `cosim compare`, `cosim report` and `cosim probe` and their Python functions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

import cosim
from cosim.evaluate import RunRecord, compare_record
from cosim.hdf5.reader import USER_BLOCK
from cosim.hdf5.sealed import seal
from cosim.report import disagreement_table, find_cautions, layer_table, summary_table
from cosim.report.page import render_page
from tests.conftest import make_network, random_images
from tests.fuzz.kind import Finding, Kind, Place, command
from tests.fuzz.values import NUMBERS, TEXTS, any_value, damage_bytes, damage_json

# Signatures that HDF5 writes before its structures.
_SIGNATURES = (b"OHDR", b"TREE", b"HEAP", b"SNOD", b"GCOL", b"\x89HDF", b"deflate", b"provenance", b"unit", b"labels")
_CIRCUITS = {
    "transients": ["run.fidelity=tran", "run.keep_reads=true", "array.open_wordlines=4", "array.bitline_res_ohm=40"],
    "solved": ["run.fidelity=solved", "run.certificate_reads=20", "array.open_wordlines=4"],
    "ideal": ["run.fidelity=ideal"],
}
# How often an input goes to these commands, which take a second; all others are loaded, compared and tabulated.
_PAGES, _PROBES = 1 / 20, 1 / 200


class Records(Kind):
    """Records of three small runs, damaged as bytes, in their structure, or in their provenance."""

    # A probe of an intact record simulates, with this machine's program and no other.
    programs = Kind.programs | {shutil.which("ngspice") or "ngspice", "timeout"}

    def prepare(self, originals: Path) -> None:
        images = (random_images(12) * 255).to(torch.uint8)
        dataset = cosim.Dataset("digits", images, 255, torch.arange(12) % 3, "md5:0")
        for name, settings in _CIRCUITS.items():
            config = cosim.Config.load(None, settings)
            record = cosim.infer(cosim.CircuitNetwork(make_network(float_weights=True), config), dataset)
            record.save(originals / f"{name}.h5")
            render_page(record)  # makes matplotlib's list of fonts
        digits, config = cosim.load_network("digits-w4a4"), cosim.Config.load(None, ["run.fidelity=solved"])
        few = cosim.load_dataset("digits").head(2)
        cosim.infer(cosim.CircuitNetwork(digits, config), few).save(originals / "digits.h5")

    def mutate(self, place: Place, rng: np.random.Generator) -> str:
        names = sorted(path.name for path in place.originals.glob("*.h5"))
        name, other = rng.choice(names, 2)
        path = place.inputs / "run.h5"
        content = (place.originals / name).read_bytes()
        chance = rng.random()
        if chance < 0.5:
            content, what = damage_bytes(content, (place.originals / other).read_bytes(), rng, _SIGNATURES)
            path.write_bytes(content)
        else:
            path.write_bytes(content)
            change = _CHANGES[int(rng.integers(len(_CHANGES)))]
            try:
                with h5py.File(path, "r+") as file:
                    what = change(file, rng, place)
            except (OSError, RuntimeError, TypeError, ValueError) as error:  # what h5py itself refuses to write
                what = f"{change.__name__} left undone: {error}"
        # Damage that the seal detects is checked no further, so most inputs get a new seal, as a stranger could make it
        # too.
        seals = _pick(rng, ("damaged", "sealed again", "sealed again", "sealed again", "without a seal"))
        if seals == "sealed again":
            path.write_bytes(seal(path.read_bytes()))
        elif seals == "without a seal":
            path.write_bytes(bytes(USER_BLOCK) + path.read_bytes()[USER_BLOCK:])
        command_chance = rng.random()
        how = "probe" if command_chance < _PROBES else "report" if command_chance < _PROBES + _PAGES else "compare"
        (place.inputs / "how").write_text(how)
        return f"{name}, {seals}, {how}: {what}"

    def run(self, place: Place) -> None:
        path, how = place.inputs / "run.h5", (place.inputs / "how").read_text()
        if how == "report":
            command("report", path, "--out", place.outputs / "page.html")
        elif how == "probe":
            command("probe", path, "--image", 0, "--layer", "conv1", "--at", "1,1", "--channel", 0)
        else:
            self._compare(path)

    def _compare(self, path: Path) -> None:
        """What `cosim compare` does, without a table's lines."""
        record = RunRecord.load(path)
        comparison = compare_record(record)
        try:
            json.dumps(comparison.to_json(), allow_nan=False)
        except ValueError as error:
            raise Finding(f"a figure is no number: {error}") from error
        for table in (summary_table(comparison), *layer_table(comparison)._by_rows(80), disagreement_table(record)):
            assert table.row_count >= 0
        find_cautions(comparison)


def _objects(file: h5py.File) -> list[str]:
    names = ["/"]
    file.visit(names.append)
    return names


def _datasets(file: h5py.File) -> list[str]:
    return [name for name in _objects(file) if isinstance(file[name], h5py.Dataset)]


def _pick(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _attribute(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    name = _pick(rng, [name for name in _objects(file) if len(file[name].attrs)])
    key = _pick(rng, list(file[name].attrs))
    value = _pick(rng, (*NUMBERS, *TEXTS, None, b"\xff\xfe", np.zeros(3), np.zeros((2, 2, 2)), np.zeros(0), [1, 2, 3],
                        ["a", "b"], h5py.Empty("f"), np.array([(1, 2.0)], "i4,f8"), np.bool_(True)))  # fmt: skip
    if value is None:
        del file[name].attrs[key]
    else:
        file[name].attrs[key] = value
    return f"attribute {key} of {name} = {value!r:.60}"


def _provenance(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    data = json.loads(file.attrs["provenance"])
    what = "; ".join(damage_json(data, rng) for _ in range(int(rng.integers(1, 4))))
    file.attrs["provenance"] = json.dumps(data)
    return f"provenance: {what}"


def _program(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    data = json.loads(file.attrs["provenance"])
    section = data.setdefault("config", {}).setdefault("run", {})
    key = _pick(rng, ("ngspice", "ngspice", "workers", "timeout_s", "tensor_threads"))
    section[key] = str(place.canary) if key == "ngspice" else 1
    file.attrs["provenance"] = json.dumps(data)
    return f"run.{key} in the provenance"


def _text(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    text = _pick(rng, ("[" * 100_000, "{}", "", "null", "5", '{"a":' * 5000, "\0", '"' + "a" * 1_000_000 + '"'))
    file.attrs["provenance"] = text
    return f"provenance = {text!r:.30}"


def _removed(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    name = _pick(rng, _objects(file)[1:])
    del file[name]
    return f"{name} removed"


def _values(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    name = _pick(rng, _datasets(file))
    values = np.asarray(file[name][()])
    value = _pick(rng, (0, -1, 1, 2**31 - 1, 2**62, float("nan"), float("inf"), 1e300, -1e300, 1e-300))
    if values.dtype.kind in "iu":
        value = int(value) if np.isfinite(value) and abs(value) < 2**63 else 2**63 - 1
        value = int(np.clip(value, np.iinfo(values.dtype).min, np.iinfo(values.dtype).max))
    if values.size and rng.integers(2):
        values.flat[int(rng.integers(values.size))] = value
    else:
        values[...] = value
    file[name][...] = values
    return f"values of {name} set to {value}"


def _reshaped(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    name = _pick(rng, _datasets(file))
    values = np.asarray(file[name][()])
    shapes: list[Callable[[], Any]] = [
        lambda: values.reshape(-1),
        lambda: values[None],
        lambda: values[:0],
        lambda: values[:1],
        lambda: np.concatenate([values, values]),
        lambda: values.flat[0],
        lambda: values.T,
        lambda: values.astype(np.float16),
        lambda: values.astype("f8"),
        lambda: values.astype("u1"),
        lambda: values.astype(complex),
        lambda: values.astype("S8"),
        lambda: values.astype(bool),
        lambda: np.full(values.shape, (1, 2.0), "i4,f8"),
    ]
    number = int(rng.integers(len(shapes)))
    try:
        made = shapes[number]()
    except (IndexError, ValueError):  # a scalar or an empty array
        made = np.zeros(0)
    del file[name]
    file[name] = made
    return f"{name} of shape {values.shape} {values.dtype} made {np.shape(made)} {np.asarray(made).dtype}"


def _huge(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    name = _pick(rng, _datasets(file))
    dtype, axes = file[name].dtype, max(file[name].ndim, 1)
    size = _pick(rng, (2**24, 2**31, 2**40, 2**60))
    shape = (size, *(1,) * (axes - 1)) if rng.integers(2) else (int(size ** (1 / axes)) + 1,) * axes
    del file[name]
    packed = {"chunks": (*(1,) * (axes - 1), 1024), "compression": "gzip"} if rng.integers(2) else {}
    file.create_dataset(name, shape, dtype, **packed)
    return f"{name} claims {shape}"


def _bomb(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    name = _pick(rng, _datasets(file))
    dtype = file[name].dtype
    del file[name]
    file.create_dataset(name, (1 << 27,), dtype, chunks=(1 << 20,), compression="gzip", fillvalue=0)
    return f"{name} is never written and claims 2^27 values"


def _linked(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    name = _pick(rng, _objects(file)[1:])
    kind = _pick(rng, ("soft", "loop", "external", "device", "itself", "dangling"))
    if kind != "itself":
        del file[name]
    if kind == "external":
        file[name] = h5py.ExternalLink(str(place.originals / "ideal.h5"), "/labels")
    elif kind == "device":
        file[name] = h5py.ExternalLink("/dev/zero", "/labels")
    elif kind == "itself":
        file["layers/0/again"] = file["/"]
    else:
        file[name] = h5py.SoftLink({"soft": "/labels", "loop": f"/{name}", "dangling": "/nothing"}[kind])
    return f"{name} is a link: {kind}"


def _elsewhere(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    name = _pick(rng, _datasets(file))
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    if rng.integers(2):
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(str(place.originals / "ideal.h5"), "labels", shape=shape)
        file.create_virtual_dataset(name, layout)
        return f"{name} is virtual"
    file.create_dataset(name, shape, dtype, external=[(str(place.work / "users.txt"), 0, h5py.h5f.UNLIMITED)])
    return f"{name} lies in another file"


def _filtered(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    name = _pick(rng, _datasets(file))
    values = np.atleast_1d(file[name][()])
    del file[name]
    packed: Any = _pick(rng, ({"compression": "lzf"}, {"scaleoffset": 3}, {"fletcher32": True}, {"shuffle": True}))
    file.create_dataset(name, data=values, chunks=True, **packed)
    return f"{name} with {packed}"


def _replaced(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    name = _pick(rng, _objects(file)[1:])
    del file[name]
    value = any_value(rng)
    if value is None or isinstance(value, dict):
        file.create_group(name)
    else:
        file[name] = value
    return f"{name} replaced by {value!r:.60}"


def _added(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    count = _pick(rng, (1, 50, 3000))
    for number in range(count):
        file.create_group(f"layers/{number + 2}" if rng.integers(2) else f"more/{number}")
    return f"{count} groups added"


def _deep(file: h5py.File, rng: np.random.Generator, place: Place) -> str:
    file.create_group("/".join(["deep"] * 2000))
    return "2000 groups within each other"


_CHANGES: tuple[Callable[[h5py.File, np.random.Generator, Place], str], ...] = (
    _attribute, _attribute, _attribute, _provenance, _provenance, _program, _text, _removed, _values, _values, _values,
    _reshaped, _reshaped, _huge, _bomb, _linked, _elsewhere, _filtered, _replaced, _added, _deep,
)  # fmt: skip

KIND = Records()
