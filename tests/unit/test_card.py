"""Cards: what is understood, and what may never reach a deck."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from cosim.config import Config
from cosim.device import Model, Section, Subcircuit, load_card, shipped_cards
from cosim.device.expression import rewrite
from cosim.device.parser import parse_card
from cosim.errors import CardError
from cosim.netlist import ArrayDecks, CellWriter, curve_deck

GOOD = "* a cell\n.MODEL Cell NMOS (LEVEL = 54, version=4.5\n+ vth0=2.3 toxe = 15.8n $ oxide\n+ u0=2.4e-2 ) ; end\n"


CELL = """
.param beta=60u
.model q nmos level=1 vto={vto} kp={2 * beta}
.subckt mine drain gate source body params: dvt=0 w = 0.1u
.model inner d is={1e-15*k}
.param k=0.6
e1 fg a gate 0 0.6
b1 a 0 V = -k * (dvt + 0.1) + 0.06*v(drain) - v(source, 0)**2
m1 drain fg source body Q w={w} l=0.11u
r1 drain source {1k/k}
d1 body drain inner
.ends mine
.lib tt
.param vto=0.8
.endl tt
.lib ff
.param vto={0.8 - 0.1}
.endl
"""


def tt(name: str, text: str) -> Section:
    return parse_card(name, text).at("tt")


@pytest.mark.parametrize("name", shipped_cards())
@pytest.mark.parametrize("process", ["tt", "ff", "ss", "fs", "sf"])
def test_shipped_cards_are_cells_at_every_corner(name: str, process: str) -> None:
    cell = load_card(name).at(process).cell()
    assert isinstance(cell, Subcircuit) or cell.kind == "nmos"


def test_a_card_is_understood_and_written_again() -> None:
    section = tt("cell", GOOD)
    model = section.cell()
    assert isinstance(model, Model)
    assert model.parameters == {"level": "54", "version": "4.5", "vth0": "2.3", "toxe": "15.8n", "u0": "2.4e-2"}
    (again,) = tt("cell", section.text()).models.values()
    assert (again.name, again.parameters) == ("cosim_cell", model.parameters), "no keyword of ngspice starts so"


def test_a_subcircuit_is_understood_and_written_again() -> None:
    section = tt("user", CELL)
    cell = section.cell()
    assert isinstance(cell, Subcircuit)
    assert (cell.name, cell.ports) == ("mine", ("drain", "gate", "source", "body"))
    assert cell.parameters == {"dvt": "0", "w": "0.1u"}
    assert cell.shift_parameter() == "dvt"
    assert cell.lines == (
        ".model cosim_inner d",
        "+ is={(1e-15*k)}",
        ".param k=0.6",
        "e1 fg a gate 0 0.6",
        "b1 a 0 v=((((0-k)*(dvt+0.1))+(0.06*v(drain)))-pow(v(source,0),2))",
        "m1 drain fg source body cosim_q w={w} l=0.11u",
        "r1 drain source {(1k/k)}",
        "d1 body drain cosim_inner",
    )
    assert tt("user", section.text().replace("cosim_", "")).text() == section.text()


def test_the_documented_cell_is_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "howto" / "own-cell.md").read_text().split("```")[1]
    writer = CellWriter.for_card(parse_card("my_cell", text), Config())
    assert (writer.model, writer.shift, dict(writer.geometry)) == ("cosim_mine", "dvt", {"w": 1e-7, "l": 1.1e-7})


def test_a_section_decides_and_what_is_outside_belongs_to_all() -> None:
    card = parse_card("user", CELL)
    assert card.at("tt").models["q"].parameters == {"level": "1", "vto": "0.8", "kp": "0.00012"}
    assert card.at("ff").models["q"].parameters["vto"] == "0.7"
    with pytest.raises(CardError, match=r"no section 'ss', only ff, tt: set corner\.process"):
        card.at("ss")
    with pytest.raises(CardError, match="no section 'ff', only tt"):
        parse_card("cell", GOOD).at("ff")


@pytest.mark.parametrize(
    "smuggled",
    [
        ".control\nshell touch /tmp/owned\n.endc",
        ".include /etc/passwd",
        ".INC other",
        "m1 d g s b cell",
        "shell rm -rf /",
        ".subckt a d g s b x=0\n.include /etc/passwd\n.ends",
        ".subckt a d g s b x=0\nv1 d s 1\n.ends",
        ".subckt a d g s b x=0\nx1 d g s b other\n.ends",
        ".lib ff\n.control\n.endl",
        ".options temp=3",
        ".csparam y=2",
        "v1 a 0 1",
        ".end",
        "quit",
    ],
)
def test_anything_but_models_and_subcircuits_is_refused(smuggled: str) -> None:
    for text in (GOOD + smuggled, smuggled + "\n" + GOOD):
        with pytest.raises(CardError, match=r"expected only \.model, \.param, \.subckt and \.lib SECTION"):
            parse_card("cell", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".lib other.lib tt\n", r"expected \.lib SECTION \(a card cannot include files\)"),
        (".lib ../tt\n", r"expected \.lib SECTION"),
        (".lib tt\n.lib ff\n", "section 'tt' is still open"),
        (".lib tt\n.endl\n.lib TT\n.endl\n", "section is there twice"),
        (".lib tt\n", "has no .endl"),
        (".endl\n", "no section is open"),
        (".ends\n", "no subcircuit is open"),
        (".subckt a d g s b x=0\n", "has no .ends"),
        (".subckt a d g s b x=0\n.lib tt\n.ends\n.endl", "subcircuit is still open since line 1"),
        (".subckt a d d s b x=0\n.ends\n", r"expected '\.subckt NAME drain gate source body"),
        (".subckt a d g s b x=y\n.ends\n", "expected parameter=number, found 'y'"),
        (".param a=1\n.param A=2\n", "given twice"),
        (".param a={b}\n", "unknown parameter 'b'"),
        (".param a={1/0}\n", "without a value"),
        (".param a={1e29*1e29}\n", "without a value"),
        (".param a={" + "(" * 60 + "1" + ")" * 60 + "}\n", "nested too deeply"),
        (".param a={" + "1+" * 2000 + "1}\n", "more than 2000 characters"),
        (".param a={1\n", "braces in pairs"),
        ("", r"holds no \.model statement"),
        ("* nothing\n", r"holds no \.model statement"),
        ("+ vth0=1\n", "continuation line"),
        (".model cell\n", r"expected '\.model NAME TYPE"),
        (".model cell nmos level=54 vth0={x}\n", "unknown parameter 'x'"),
        (".model cell nmos level=54 vth0='1+1'\n", "expected parameter=number"),
        (".model cell nmos level=54 vth0\n", "expected parameter=number"),
        (".model cell nmos level=54 vth0=nan\n", "expected parameter=number"),
        (".model cell nmos level=54 vth0=1e999\n", "expected parameter=number"),
        (".model cell nmos level=54 vth0=" + "1" * 10000 + "\n", "expected parameter=number"),
        (".model cell nmos level=54 vth0=1 VTH0=2\n", "given twice"),
        (".model cell nmos level=54 vth0=0." + "0" * 64 + "{ shell touch x }\n", "expected parameter=number"),
        (".model cell nmos level=54 vth0={2." + "0" * 64 + "e-9*1}\n", "numbers have at most 64 characters"),
        (".model cell nmos level=54 vth0={1e300}\n", r"'1e300' in an expression .* lie within 1e\+30"),
        (".model cell nmos level=54 vth0={1e999}\n", "'1e999' in an expression"),
        (".model cell nmos level=54 vth0={-1e31}\n", "'1e31' in an expression"),
        (".model cell nmos level=54 vth0={1e20**2}\n", "without a value"),
        (".model cell nmos level=54 vth0=1e-9999\n", "expected parameter=number"),
        (".model cell nmos level=54 vth0=\u0661\n", "expected parameter=number"),
        (".model \u212aell nmos level=54\n", r"expected '\.model NAME TYPE"),
        (".model cell nmos level=54 vth0=1}{\n", "braces in pairs"),
        (".subckt a d g s b x=0\n.ends a b\n", "only a name after .ends"),
        (".lib tt\n.endl tt shell\n", "only a name after .endl"),
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
        tt("cell", f".model {statement}\n").cell()


def test_two_cells_are_told_apart_by_the_cards_name() -> None:
    two = GOOD + ".model other nmos level=54\n"
    assert tt("cell", two).cell().name == "cell"
    with pytest.raises(CardError, match="found cell, other"):
        tt("another", two).cell()


@pytest.mark.parametrize(
    ("element", "message"),
    [
        ("m1 d g s b other", "the model 'other', which the card does not have"),
        ("m1 d g s b", "too few words"),
        ("m1 d ../g s b q", "the node '../g'"),
        ("r1 d s {v(d)}", "function 'v'"),
        ("r1 d s 1k tc=1", "'tc=1' after its value"),
        ("r1 d s 'x'", "expected parameter=number, found \"'x'\""),
        ("c1 d s {x", "braces in pairs"),
        ("b1 d 0 v=`id`", "'`id`' in an expression"),
        ("b1 d 0 v=i(v1)", "the function 'i', which is none of"),
        ("b1 d 0 v=exp(1,2)", "2 arguments of 'exp'"),
        ("b1 d 0 v=x+", "where a number or a name is due"),
        ("b1 d 0 v=(x", "where '\\)' is due"),
        ("b1 d 0 v=x x", "after the end of an expression"),
        ("b1 d 0 v=y", "unknown parameter 'y'"),
        ("b1 d 0 q=1", "no 'B<name> node node V=expression'"),
        ("e1 d 0 value={x}", "too few words"),
        ("e1 d 0 poly 1 2", "expected parameter=number, found '2'|the node"),
    ],
)
def test_elements_that_are_not_understood(element: str, message: str) -> None:
    with pytest.raises(CardError, match=message):
        parse_card("user", f".model q nmos level=1\n.subckt a d g s b x=0\n{element}\n.ends\n")


def test_a_constant_expression_is_a_number() -> None:
    values = {"a": "2u", "b": "-0.5"}
    for source, text in {
        "a": "2u", "-a": "-2e-06", "2**3**2": "512", "-2**2": "-4", "1-2-3": "-4", "(b)": "-0.5", "1/4*2": "0.5",
        "max(b,a)*1meg": "2", "sqrt(4)+abs(b)": "2.5", "1-b": "1.5",
    }.items():  # fmt: skip
        assert rewrite(source, values) == text, source


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (".subckt a d g s b\n.ends", [], "needs one parameter, the threshold shift, found none: write .subckt"),
        (".subckt a d g s b x=0 y=0\n.ends", [], "found x, y: name it with cell.shift_parameter"),
        (".subckt a d g s b shift=0\n.ends", ["cell.shift_parameter=shft"], "'shft': did you mean 'shift'"),
        (".subckt a g d s b x=0\n.ends", [], "order drain gate source body, found g d s b"),
        (".subckt a drain source gate bulk x=0\n.ends", [], "found drain source gate bulk"),
        (".subckt a d g s x=0\n.ends", [], "four ports drain gate source body, found d, g, s"),
        (".subckt a d g s b x=0\n.ends\n.subckt c d g s b x=0\n.ends", [], "needs one subcircuit, found a, c"),
        (".subckt a d g s b x=0\n.ends", ["cell.subcircuit=aa"], "no subcircuit 'aa': did you mean 'a'"),
        (".model a nmos level=54", ["cell.subcircuit=aa"], "needs one subcircuit, found none"),
        (".model a nmos level=54", ["cell.shift_parameter=x"], "is a transistor, which has delvto: leave it out"),
        (".subckt a d g s b x=0\n.ends", ["cell.width_m=2e-7"], "cell.width_m is set, but subcircuit 'a' has no"),
        (".lib tt\n.model a nmos level=54\n.endl", ["corner.process=ff"], "no section 'ff', only tt"),
    ],
)  # fmt: skip
def test_subcircuits_that_are_no_cells(text: str, settings: list[str], message: str) -> None:
    with pytest.raises(CardError, match=message):
        CellWriter.for_card(parse_card("user", text), Config.load(None, settings))


def test_cells_are_found_by_name() -> None:
    two = ".subckt a d g s b x=0 y=0 w=1u\n.ends\n.subckt user n1 n2 n3 n4 x=0\n.ends"
    assert CellWriter.for_card(parse_card("user", two), Config()).model == "cosim_user"
    asked = Config.load(None, ["cell.subcircuit=A", "cell.shift_parameter=y"])
    writer = CellWriter.for_card(parse_card("user", two), asked)
    assert (writer.model, writer.shift, writer.geometry) == ("cosim_a", "y", (("w", 1e-7),))


def test_what_a_number_is_in_the_file_it_is_in_the_deck() -> None:
    text = ".model cell nmos a=0.1u b=+1.50 c={1.50} d={1e-9*2} e=1E30 f=" + "0" * 63 + "7\n"
    assert tt("cell", text).models["cell"].parameters == {
        "a": "0.1u", "b": "+1.50", "c": "1.50", "d": "2e-09", "e": "1e30", "f": "0" * 63 + "7",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["", "a\n.include b", "a b", "../a", "A", "a" * 65])
def test_names_that_no_file_beside_a_deck_may_have(name: str) -> None:
    with pytest.raises(CardError, match="a card is named with"):
        parse_card(name, GOOD)


@pytest.mark.parametrize(("name", "model"), [("mine", "nmos"), ("periph65", "q")])
def test_a_card_that_would_take_the_place_of_the_sense_stages(name: str, model: str) -> None:
    text = f".model {model} nmos level=1\n.subckt cell d g s b x=0\nm1 d g s b {model}\n.ends\n"
    config = Config.load(None, ["sense.stage=transistor"])
    with pytest.raises(CardError, match=f"card '{name}' has the .* of the sense stage's card 'periph65'"):
        ArrayDecks(parse_card(name, text), np.zeros(24), config)
    ArrayDecks(parse_card(name, text), np.zeros(24), Config())


@pytest.mark.parametrize("parameter", ["name", "self", "netlist", "subcircuit_name", "raw_spice"])
def test_a_parameter_may_have_any_name(parameter: str) -> None:
    card = parse_card("user", f".subckt mine d g s b {parameter}=0\nr1 d s 1k\n.ends\n")
    deck = curve_deck(card, np.array([0.25]), np.array([0.1]), Config())
    assert f"x0 d0 w 0 0 cosim_mine {parameter}=0.25" in deck.text()


LONG = 1 << 18
LARGE = {
    "blanks before an equals sign": ".model q nmos level=54 k1" + " " * LONG + "=1\n",
    "continuation lines": ".model q nmos level=54\n" + "+\n" * LONG + "+ k1=1\n",
    "models, each looked up": "".join(f".model q{number} d\n" for number in range(LONG // 16))
    + ".subckt c d g s b x=0\n" + "d1 d s q0\n" * (LONG // 16) + ".ends\n",
    "parameters, each hidden or not": ".param " + " ".join(f"p{number}=1" for number in range(9000)) + "\n"
    + "".join(f".subckt c{number} d g s b x=0\n.ends\n" for number in range(999)),
}  # fmt: skip


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE.keys())
def test_a_large_card_is_read_in_a_moment(text: str) -> None:
    started = time.process_time()
    assert parse_card("large", text).at("tt").text()
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("".join(f".lib s{number}\n.endl\n" for number in range(65)), "65 sections, expected at most 64"),
        ("".join(f".subckt c{number} d g s b\n.ends\n" for number in range(1001)), "1001 subcircuits in a section"),
        (".param " + "".join(f"p{number}=1 " for number in range(10_001)), "more than 10000 parameters"),
        (".model q d " + "".join(f"p{number}=1 " for number in range(10_001)), "more than 10000 parameters"),
        (".subckt c d g s b " + "".join(f"p{number}=1 " for number in range(10_001)) + "\n.ends", "more than 10000"),
        (".model q d " + "(" * 40_000 + "\n" + "".join(f".lib s{number}\n.endl\n" for number in range(60)),
         "characters in its sections, each with the statements that belong to all, expected at most 2097152"),
        (".param p=0." + "0" * 60 + "\n.subckt c d g s b x=0\nb1 d s v=x" + "+p" * 99 + "\n.ends",
         "more than 4000 characters with its parameters put in"),
    ],
)  # fmt: skip
def test_a_card_with_more_than_a_cell_needs(text: str, message: str) -> None:
    with pytest.raises(CardError, match=message):
        parse_card("large", text)


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
