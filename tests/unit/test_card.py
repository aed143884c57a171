"""Cards: what is understood, and what may never reach a deck."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosim.device import load_card, shipped_cards
from cosim.device.card import parse_card
from cosim.errors import CardError

GOOD = "* a cell\n.MODEL Cell NMOS (LEVEL = 54, version=4.5\n+ vth0=2.3 toxe = 15.8n $ oxide\n+ u0=2.4e-2 ) ; end\n"


@pytest.mark.parametrize("name", shipped_cards())
def test_shipped_cards_are_cells(name: str) -> None:
    assert load_card(name).cell_model().kind == "nmos"


def test_a_card_is_understood_and_written_again() -> None:
    card = parse_card("cell", GOOD)
    model = card.cell_model()
    assert model.parameters == {"level": "54", "version": "4.5", "vth0": "2.3", "toxe": "15.8n", "u0": "2.4e-2"}
    (again,) = parse_card("cell", card.text()).models.values()
    assert (again.name, again.parameters) == ("cosim_cell", model.parameters), "no keyword of ngspice starts so"


@pytest.mark.parametrize(
    "smuggled",
    [
        ".control\nshell touch /tmp/owned\n.endc",
        ".include /etc/passwd",
        ".lib other.lib tt",
        ".INC other",
        "m1 d g s b cell",
        ".subckt cell d g s b\n.ends",
        ".param x=1",
        "shell rm -rf /",
        ".csparam y=2",
        "v1 a 0 1",
        ".end",
        "quit",
    ],
)
def test_anything_but_models_is_refused(smuggled: str) -> None:
    for text in (GOOD + smuggled, smuggled + "\n" + GOOD):
        with pytest.raises(CardError, match=r"expected only \.model statements and comments"):
            parse_card("cell", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"holds no \.model statement"),
        ("* nothing\n", r"holds no \.model statement"),
        ("+ vth0=1\n", "continuation line"),
        (".model cell\n", r"expected '\.model NAME TYPE"),
        (".model cell nmos level=54 vth0={x}\n", "expected parameter=number, found 'vth0={x}'"),
        (".model cell nmos level=54 vth0='1+1'\n", "expected parameter=number"),
        (".model cell nmos level=54 vth0\n", "expected parameter=number"),
        (".model cell nmos level=54 vth0=nan\n", "expected parameter=number"),
        (".model cell nmos level=54 vth0=1e999\n", "expected parameter=number"),
        (".model cell nmos level=54 vth0=" + "1" * 10000 + "\n", "expected parameter=number"),
        (".model cell nmos level=54 vth0=1 VTH0=2\n", "given twice"),
        (".model cell nmos level=54\n.model cell nmos level=54\n", "is there twice"),
        (".model ce;ll nmos level=54\n", r"expected '\.model NAME TYPE"),
    ],
)
def test_statements_that_are_no_models(text: str, message: str) -> None:
    with pytest.raises(CardError, match=message):
        parse_card("cell", text)


@pytest.mark.parametrize("statement", ["d1 d is=1e-14", "p1 pmos level=54", "n1 nmos level=1", "n1 nmos level=54k"])
def test_a_card_without_a_cell(statement: str) -> None:
    with pytest.raises(CardError, match="needs one BSIM4 n-channel model"):
        parse_card("cell", f".model {statement}\n").cell_model()


def test_two_cells_are_told_apart_by_the_cards_name() -> None:
    two = GOOD + ".model other nmos level=54\n"
    assert parse_card("cell", two).cell_model().name == "cell"
    with pytest.raises(CardError, match="found cell, other"):
        parse_card("another", two).cell_model()


def test_files_that_are_no_cards(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no card 'nor66': did you mean 'nor65'"):
        load_card("nor66")
    path = tmp_path / "cell.card"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CardError, match="plain ASCII"):
        load_card(path)
    path.write_bytes(b"* " + b"x" * (1 << 21))
    with pytest.raises(CardError, match="larger than"):
        load_card(path)
