"""The report page and the terminal tables: say what the run found and escape what the run is called.

The page needs nothing from the network.
"""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table

import cosim
from cosim.config import Config
from cosim.evaluate.record import AuditRecord, LayerRecord, RunRecord, Waveform
from cosim.evaluate.summary import summarize
from cosim.readout import GroupReads
from cosim.report import find_cautions, layer_table, summary_table, wording, write_page
from cosim.report.page import render_page
from cosim.report.tables import LayerTable
from cosim.spice import Usage

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


def make_record(*, classes: int = 10, config: Config | None = None) -> RunRecord:
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
        layer("conv", "conv2d", (4, 1, 3, 3)),
        cosim.SoftwareStep("relu"),
        cosim.SoftwareStep("flatten"),
        layer("last", "linear", (classes, 64, 1, 1)),
    ]
    network = cosim.Network("tiny", (1, 6, 6), steps)
    images = torch.randint(0, 256, (IMAGES, 1, 6, 6), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, classes, (IMAGES,), generator=random)
    dataset = cosim.Dataset("noise", images, 255, labels, digest="none")
    config = config or Config.from_dict({"run": {"fidelity": "ideal", "keep_reads": True}})
    return cosim.infer(cosim.CircuitNetwork(network, config), dataset)


def with_reads(layer: LayerRecord, change: Callable[[GroupReads], GroupReads], highest: int | None) -> LayerRecord:
    """A layer whose reads are changed, behind converters with that highest code."""
    assert layer.kept is not None
    kept = tuple(map(change, layer.kept))
    summary = summarize(kept.__getitem__, len(kept), highest)
    return replace(layer, kept=kept, highest_code=highest, summary=summary)


def sagging(group: GroupReads) -> GroupReads:
    lsb = group.lsb * np.float32(0.98)
    return replace(group, lsb=lsb, codes=np.rint(lsb).astype(np.int32))


def renamed(record: RunRecord, name: str) -> RunRecord:
    """`record` as a file that calls everything `name` would give it; networks and layers refuse such names."""
    return replace(
        record,
        provenance=replace(record.provenance, network=name, network_source=name, dataset=name),
        layers=[replace(layer, name=name) for layer in record.layers],
        waveform=record.waveform and replace(record.waveform, title=name),
    )


def as_circuit(record: RunRecord, *, mistaken: tuple[int, ...] = ()) -> RunRecord:
    """`record` as a transient run: currents 2 % too low, an audit, the images `mistaken` decided differently."""
    logits = record.logits_circuit.copy()
    for index in mistaken:
        logits[index, (record.logits_software[index].argmax() + 1) % logits.shape[1]] = 1e6
    time_s = np.linspace(0, 41e-9, 50)
    provenance = replace(
        record.provenance,
        config=record.provenance.config.with_values({"run.fidelity": "tran"}),
        usage=Usage(decks=6, decks_reused=7, patterns_simulated=1234, patterns_reused=5, ngspice_seconds=89.0),
    )
    layers = [with_reads(layer, sagging, layer.highest_code) for layer in record.layers]
    return replace(
        record,
        provenance=provenance,
        layers=layers,
        logits_circuit=logits,
        disagreeing=np.array(mistaken, int),
        disagreeing_images=np.full((len(mistaken), 1, 6, 6), 200, np.uint8),
        levels_shift_v=np.linspace(2.3, 0.3, 16),
        audit=AuditRecord(decks=3, reads=192, patterns=57, max_error_lsb=0.00012, differing_codes=0),
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
    assert "reads simulated" not in text
    assert "Every current equals the ideal one" in text
    assert "the network came without float weights" in text


def test_names_from_the_run_are_escaped(ideal: RunRecord) -> None:
    record = renamed(as_circuit(ideal, mistaken=(0,)), NASTY)
    page, text = render_page(record), text_of(render_page(record))
    assert "<script>alert" not in page
    assert 'alert("x")' not in page
    assert f"{NASTY} on 40 images of {NASTY}" in text
    assert f"{NASTY} tiles" in text
    assert f"Bitline currents: {NASTY}" in text
    assert f"cosim infer '{NASTY}' --dataset '{NASTY}'" in text


def test_name_that_is_no_unicode_is_written(tmp_path: Path, ideal: RunRecord) -> None:
    record = replace(ideal, provenance=replace(ideal.provenance, network="odd\udcff"))
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
    text = text_of(render_page(renamed(make_record(config=config), "my net")))
    command = "cosim infer 'my net' --dataset 'my net' --images 40 --set adc.bits=lossless"
    assert f"{command} --set run.fidelity=ideal --set run.layers=all" in text


def test_quantities_have_units(ideal: RunRecord) -> None:
    text = text_of(render_page(ideal))
    assert "array.bitline_cap_f 0.2 fF" in text or "array.bitline_cap_f 200 aF" in text
    assert "cell.full_scale_a 9.2 µA" in text
    assert "read.wordline_v 4 V" in text


def test_audit_that_fails_and_unsettled_currents_are_called_out(ideal: RunRecord) -> None:
    record = as_circuit(ideal)
    assert record.audit is not None
    text = text_of(
        render_page(
            replace(
                record,
                audit=replace(record.audit, max_error_lsb=4.2),
                layers=[replace(record.layers[0], unsettled_lsb=0.7)],
            )
        )
    )
    assert "The audit found reads that are off by up to 4.2 LSB" in text
    assert "still move by up to 0.7 LSB" in text


def test_a_code_that_flips_on_an_edge_is_no_reason_for_doubt(ideal: RunRecord) -> None:
    record = as_circuit(ideal)
    assert record.audit is not None
    record = replace(record, audit=replace(record.audit, max_error_lsb=0.0003, differing_codes=1))
    assert find_cautions(cosim.compare_record(record)) == []


def on_terminal(table: Table | LayerTable, width: int) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def printed(table: Table | LayerTable) -> str:
    """The table as a terminal shows it, white space folded."""
    return re.sub(r"[^\S\n]+", " ", on_terminal(table, 200))


@pytest.mark.parametrize("name", ["a[/b]", "[bold]a[/bold]", "[/]"])
def test_tables_show_names_as_they_are(ideal: RunRecord, name: str) -> None:
    comparison = cosim.compare_record(renamed(ideal, name))
    assert f"{name} on 40 images of {name}" in printed(summary_table(comparison))
    assert name in printed(layer_table(comparison))


def test_summary_counts_repeated_decks_if_there_are_any(ideal: RunRecord) -> None:
    comparison = cosim.compare_record(as_circuit(ideal))
    row = "decks repeated with tightened options"
    assert row not in printed(summary_table(comparison))
    for retried, shown in ((0, False), (1200, True)):
        provenance = replace(comparison.provenance, usage=Usage(retried=retried))
        text = printed(summary_table(replace(comparison, provenance=provenance)))
        assert (f"{row} │ 1,200" in text) is shown
        assert (row in text) is shown


def test_layer_table_counts_clipped_codes_and_knows_no_correlation(ideal: RunRecord) -> None:
    comparison = cosim.compare_record(ideal)
    layers = tuple(replace(layer, clipped_codes=4321, correlation=None) for layer in comparison.layers)
    text = printed(layer_table(replace(comparison, layers=layers)))
    assert re.search(r"codes clipped by the converter │ 4,321\b", text)
    assert re.search(r"correlation │ - ", text)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_many_layers_are_a_row_each_and_no_number_breaks(ideal: RunRecord, width: int) -> None:
    comparison = cosim.compare_record(ideal)
    first = replace(comparison.layers[0], reads=12_345_678, differing_codes=123_456, conversions=987_654_321)
    layers = tuple(replace(first, name=f"features_{number}_conv") for number in range(14))
    text = on_terminal(layer_table(replace(comparison, layers=layers)), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    for layer in layers:
        assert any(line.startswith(f"│ {layer.name} ") and "12,345,678" in line for line in lines)
    for number in ("987,654,321", "123,456 (0.012 %)", f"{first.error_rms_lsb:.4f}", f"{first.error_mean_lsb:+.4f}"):
        assert text.count(number) >= 14, number
    assert "…" not in text


def test_few_layers_are_a_column_each(ideal: RunRecord) -> None:
    lines = on_terminal(layer_table(cosim.compare_record(ideal)), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(re.search(r"│ reads +│ +[\d,]+ │", line) for line in lines)


def test_long_names_of_layers_fold(ideal: RunRecord) -> None:
    comparison = cosim.compare_record(ideal)
    layers = tuple(replace(layer, name=f"{number}{'x' * 60}") for number, layer in enumerate(comparison.layers))
    text = on_terminal(layer_table(replace(comparison, layers=layers)), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "correlation" in text
    assert "…" not in text


def test_clipped_codes_and_overlapping_levels_are_said_everywhere(ideal: RunRecord) -> None:
    chip = {"program_sigma_v": 0.05, "charge_loss": 0.031, "smallest_separation_sigmas": 1.61, "overlapping_levels": 14}
    layers = [with_reads(layer, lambda group: group, 1) for layer in ideal.layers]
    record = replace(as_circuit(ideal), provenance=replace(ideal.provenance, chip=chip), layers=layers)
    comparison = cosim.compare_record(record)
    cautions = find_cautions(comparison)
    clipped = comparison.layers[0].clipped_codes
    assert clipped > 0
    assert any(
        f"layer conv, {clipped:,} (" in caution and "beyond the converter's range" in caution for caution in cautions
    )
    assert any("14 pairs overlap: the closest are 1.6 sigmas" in caution for caution in cautions)
    page = text_of(render_page(record))
    assert all(caution in page for caution in cautions)
    table = printed(summary_table(comparison))
    assert re.search(r"sigma of a programmed threshold │ +50 mV", table)
    assert re.search(r"closest levels │ +1\.61 sigmas apart", table)
    assert re.search(r"charge lost since programming │ +3\.1 %", table)
    assert not find_cautions(cosim.compare_record(as_circuit(ideal)))


def test_noise_and_trimming_are_shown_where_there_are_any(ideal: RunRecord) -> None:
    assert "trimmed" not in printed(layer_table(cosim.compare_record(ideal)))
    settings = {"run": {"fidelity": "ideal"}, "adc": {"noise_lsb": 0.25}, "trim": {"method": "reference"}}
    record = make_record(config=Config.from_dict(settings))
    layers = [replace(layer, trim_gain=0.84, trim_gain_spread=0.02, trim_offset_lsb=0.5) for layer in record.layers]
    record = replace(record, layers=layers)
    table = printed(layer_table(cosim.compare_record(record)))
    assert re.search(r"noise of a read, rms \[LSB\] │ +0\.2500", table)
    assert re.search(r"trimmed gain, mean │ +0\.8400", table)
    page = text_of(render_page(record))
    assert "noise of a read, rms 0.25 LSB" in page
    assert "trimmed gain 0.8400, spread 0.02 trimmed offset +0.5 LSB" in page


def test_layer_whose_currents_are_all_equal_has_no_correlation(ideal: RunRecord) -> None:
    def level(group: GroupReads) -> GroupReads:
        lsb = np.full_like(group.lsb, 2)
        return replace(group, lsb=lsb, ideal=lsb, codes=lsb.astype(np.int32), ideal_codes=lsb.astype(np.int32))

    layers = [with_reads(layer, level, layer.highest_code) for layer in ideal.layers]
    assert "correlation - " in text_of(render_page(replace(ideal, layers=layers)))


def test_codes_are_compared_with_those_of_an_ideal_array(ideal: RunRecord) -> None:
    """Behind the same converter: an ideal array's clipped codes are no difference."""

    def clipped(group: GroupReads) -> GroupReads:
        codes = np.minimum(group.codes, 1)
        return replace(group, codes=codes, ideal_codes=codes)

    record = as_circuit(ideal)
    layers = [with_reads(layer, clipped, 1) for layer in ideal.layers]
    text = text_of(render_page(replace(record, layers=layers)))
    assert "codes differing none" in text
    assert "none differ from an ideal array's" in text


def test_numbers_in_words() -> None:
    assert wording.percent(0.98765) == "98.77"
    assert [wording.seconds(value) for value in (0, 0.012, 3.42, 725, 7380)] == [
        "0 s", "12 ms", "3.42 s", "12 min 5 s", "2 h 3 min",
    ]  # fmt: skip
    assert wording.quantity("bitline_cap_f", 2.5e-12) == "2.5 pF"
    assert wording.quantity("seed", None) == "not set"
    assert [wording.count(number, "deck") for number in (0, 1, 1234)] == ["0 decks", "1 deck", "1,234 decks"]
    assert wording.number(-0.5, "+.3g") == "−0.5"
    assert wording.if_known(None, ".3f") == "-"


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
