"""The report page: says what the run found, escapes what the run is called, needs nothing from the network."""

import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import cosim
from cosim.config import Config
from cosim.evaluate.record import AuditRecord, RunRecord, Waveform
from cosim.readout import GroupReads
from cosim.report import write_page
from cosim.report.page import render_page

NASTY = '<script>alert("x")</script> & $q_1$ {{ 7 * 7 }}'
IMAGES = 40
CHROMIUM_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
)


def make_record(*, name: str = "tiny", classes: int = 10, config: Config | None = None) -> RunRecord:
    """An ideal run of a random network over random images."""
    random = torch.Generator().manual_seed(1)

    def layer(name: str, kind: str, shape: tuple[int, int, int, int]) -> cosim.LayerSpec:
        return cosim.LayerSpec(
            name=name,
            kind=kind,
            weight=torch.randint(-8, 8, shape, generator=random, dtype=torch.int8),
            weight_bits=4,
            zero_point=torch.full((shape[0],), 8),
            activation_bits=2,
            activation_scale=0.4,
            output_scale=torch.full((shape[0],), 0.1),
            output_bias=torch.zeros(shape[0]),
        )

    steps: list[cosim.LayerSpec | cosim.SoftwareStep] = [
        layer(f"conv of {name}", "conv2d", (4, 1, 3, 3)),
        cosim.SoftwareStep("relu"),
        cosim.SoftwareStep("flatten"),
        layer("last", "linear", (classes, 64, 1, 1)),
    ]
    network = cosim.Network(name, (1, 6, 6), steps)
    images = torch.randint(0, 256, (IMAGES, 1, 6, 6), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, classes, (IMAGES,), generator=random)
    dataset = cosim.Dataset("noise", images, 255, labels, digest="none")
    config = config or Config.from_dict({"run": {"fidelity": "ideal"}})
    return cosim.infer(cosim.CircuitNetwork(network, config), dataset)


def sagging(group: GroupReads) -> GroupReads:
    lsb = group.lsb * np.float32(0.98)
    return replace(group, lsb=lsb, codes=np.rint(lsb).astype(np.int32))


def as_circuit(record: RunRecord, *, mistaken: tuple[int, ...] = ()) -> RunRecord:
    """`record` as a transient run: currents 2 % too low, an audit, the images `mistaken` decided differently."""
    logits = record.logits_circuit.copy()
    for index in mistaken:
        logits[index, (record.logits_software[index].argmax() + 1) % logits.shape[1]] = 1e6
    time_s = np.linspace(0, 41e-9, 50)
    facts = record.facts | {
        "config": record.facts["config"] | {"run": record.facts["config"]["run"] | {"fidelity": "tran"}},
        "usage": {
            "patterns_simulated": 1234,
            "patterns_reused": 5,
            "decks": 6,
            "decks_reused": 7,
            "ngspice_seconds": 89.0,
        },
    }
    layers = [replace(layer, groups=[sagging(group) for group in layer.groups]) for layer in record.layers]
    return replace(
        record,
        facts=facts,
        layers=layers,
        logits_circuit=logits,
        disagreeing=np.array(mistaken, int),
        disagreeing_images=np.full((len(mistaken), 1, 6, 6), 200, np.uint8),
        levels_shift_v=np.linspace(2.3, 0.3, 16),
        audit=AuditRecord(decks=3, reads=192, max_error_lsb=0.00012, differing_codes=0),
        waveform=Waveform("conv, group 0", time_s, np.ones((50, 3)) * time_s[:, None], np.array([2.1e-8, 4.1e-8])),
    )


@pytest.fixture(scope="module")
def ideal() -> RunRecord:
    return make_record()


def text_of(page: str) -> str:
    """The page's words, white space folded."""
    body = re.sub(r"<style.*?</style>|<script.*?</script>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


class References(HTMLParser):
    """Everything a browser would fetch, and every identifier."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.identifiers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.found.append(value or "")
            self.found += re.findall(r"url\(([^)]*)\)", value or "")
            if name == "id":
                self.identifiers.append(value or "")


def test_page_states_the_numbers_of_the_run(ideal: RunRecord) -> None:
    record = as_circuit(ideal, mistaken=(3, 17))
    comparison = cosim.compare_record(record)
    text = text_of(render_page(record))
    assert "tiny on 40 images of noise" in text
    assert "decides 2 of 40 images differently from the integer network" in text
    for accuracy in (comparison.accuracy_software, comparison.accuracy_circuit):
        low, high = accuracy.interval
        assert f"95 % interval {100 * low:.2f} to {100 * high:.2f} %, {accuracy.correct} of 40 right" in text
    assert f"{comparison.reads:,}" in text
    assert "1,234" in text
    assert "89 s" in text
    assert 0 < comparison.layers[0].differing_codes < comparison.layers[0].conversions
    assert f"codes differing {comparison.layers[0].differing_codes:,} (" in text
    assert "192 reads in 3 decks" in text
    assert "none of their codes differs" in text


def test_counts_in_the_confusion_matrix_add_up(ideal: RunRecord) -> None:
    matrices = re.findall(r"<tbody>(.*?)</tbody>", render_page(ideal), re.DOTALL)[:2]
    for matrix in matrices:
        counts = [int(count) for count in re.findall(r'<td class="(?:right|wrong)"[^>]*>(\d+)</td>', matrix)]
        assert sum(counts) == IMAGES


def test_images_decided_differently_are_shown(ideal: RunRecord) -> None:
    record = as_circuit(ideal, mistaken=(3, 17))
    page = render_page(record)
    assert page.count('<img src="data:image/png;base64,') == 2
    software, circuit = (int(logits[17].argmax()) for logits in (record.logits_software, record.logits_circuit))
    assert f"label {record.labels[17]} software {software} circuit {circuit} image 17" in text_of(page)


def test_no_images_decided_differently(ideal: RunRecord) -> None:
    text = text_of(render_page(as_circuit(ideal)))
    assert "The circuit decides every one of the 40 images as the integer network does." in text
    assert "None: software and circuit decide all 40 images alike." in text


def test_ideal_run_claims_no_circuit(ideal: RunRecord) -> None:
    text = text_of(render_page(ideal))
    assert "No circuit was simulated." in text
    assert "No audit" in text
    assert "No waveform: no circuit was simulated." in text
    assert "patterns simulated" not in text
    assert "Every current equals the ideal one" in text
    assert "the network came without float weights" in text


def test_names_from_the_run_are_escaped() -> None:
    record = as_circuit(make_record(name=NASTY), mistaken=(0,))
    assert record.waveform is not None
    record = replace(record, waveform=replace(record.waveform, title=NASTY))
    page = render_page(record)
    assert "<script>alert" not in page
    assert 'alert("x")' not in page
    assert f"conv of {NASTY}" in text_of(page)


def test_name_that_is_no_unicode_is_written(tmp_path: Path, ideal: RunRecord) -> None:
    record = replace(ideal, facts=ideal.facts | {"network": "odd\udcff"})
    write_page(record, tmp_path / "page.html")
    assert "odd?" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_page_refers_to_nothing_outside_itself(ideal: RunRecord) -> None:
    page = render_page(as_circuit(ideal, mistaken=(1,)))
    references = References(page)
    assert len(references.found) > 10
    assert [found for found in references.found if not found.startswith(("#", "data:"))] == []
    assert not re.search(r"https?://|@import|<link(?! rel=\"icon\")", page)


def test_identifiers_are_unique_and_known(ideal: RunRecord) -> None:
    references = References(render_page(as_circuit(ideal, mistaken=(1,))))
    assert len(references.identifiers) == len(set(references.identifiers))
    assert {found[1:] for found in references.found if found.startswith("#")} <= set(references.identifiers)


def test_same_record_gives_the_same_page(ideal: RunRecord) -> None:
    record = as_circuit(ideal, mistaken=(1,))
    assert render_page(record) == render_page(record)


def test_many_classes_give_a_matrix_without_numbers() -> None:
    page = render_page(make_record(classes=300))
    assert 'class="confusion"' not in page
    assert page.count("confusion matrix of the") == 2
    assert page.count("A pixel is a block of 3 by 3 classes.") == 2
    assert len(page) < 500_000


def test_run_without_array_layers(ideal: RunRecord) -> None:
    assert "No layer ran on an array." in text_of(render_page(replace(ideal, layers=[])))


def test_many_layers_keep_the_page_small(ideal: RunRecord) -> None:
    record = as_circuit(ideal)
    page = render_page(replace(record, layers=record.layers * 60))
    assert page.count("Not drawn") == len(record.layers) * 60 - 24
    assert len(page) < 3_000_000


def test_command_repeats_the_settings() -> None:
    config = Config.from_dict({"run": {"fidelity": "ideal", "layers": "all"}, "adc": {"bits": "lossless"}})
    text = text_of(render_page(make_record(name="my net", config=config)))
    command = "cosim infer 'my net' --dataset noise --images 40 --set adc.bits=lossless"
    assert f"{command} --set run.fidelity=ideal --set run.layers=all" in text


def test_quantities_have_units(ideal: RunRecord) -> None:
    text = text_of(render_page(ideal))
    assert "array.bitline_cap_f 0.2 fF" in text or "array.bitline_cap_f 200 aF" in text
    assert "cell.full_scale_a 6 µA" in text
    assert "read.wordline_v 4 V" in text


def test_audit_that_fails_and_unsettled_currents_are_called_out(ideal: RunRecord) -> None:
    record = as_circuit(ideal)
    assert record.audit is not None
    text = text_of(
        render_page(
            replace(
                record,
                audit=replace(record.audit, differing_codes=4),
                layers=[replace(record.layers[0], unsettled_lsb=0.7)],
            )
        )
    )
    assert "The audit found 4 codes that differ" in text
    assert "still move by up to 0.7 LSB" in text


@pytest.mark.parametrize("size", ["400,800", "1600,900"])
def test_page_renders_in_a_browser(tmp_path: Path, ideal: RunRecord, size: str) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not on the PATH: the page was not rendered")
    page, shot = tmp_path / "page.html", tmp_path / "page.png"
    write_page(as_circuit(ideal, mistaken=(1, 2)), page)
    options = [*CHROMIUM_OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={size}"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [chromium, *options, *more, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    dumped = run("--dump-dom")
    attributes = dict(re.findall(r'data-(figures|empty|overflow)="(\d+)"', dumped.stdout))
    # Two matrices, three plots of the one array layer, one waveform, the levels, two thumbnails.
    assert attributes == {"figures": "9", "empty": "0", "overflow": "0"}
    assert "Uncaught" not in dumped.stderr
    assert "Refused to" not in dumped.stderr
    run(f"--screenshot={shot}")
    assert shot.read_bytes().startswith(b"\x89PNG")
