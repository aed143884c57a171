"""The configuration: defaults, files, overrides, and what it says about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosim.config import Array, Config, Corner, check_value
from cosim.errors import ConfigError

AMPLITUDES = ["read.mode=amplitude", "array.source_line_wordlines=1"]


def test_defaults_are_a_configuration() -> None:
    config = Config.load()
    assert config.array.open_wordlines == 9
    assert config.cell.unit_a == pytest.approx(config.cell.full_scale_a / (15 + config.cell.offset_units))


def test_file_and_overrides_in_order(tmp_path: Path) -> None:
    path = tmp_path / "cosim.toml"
    path.write_text('[array]\nopen_wordlines = 4\n[adc]\nbits = "lossless"\n')
    config = Config.load(path, ["array.open_wordlines=6", "run.layers=conv1,conv2", "cell.full_scale_a=3e-6"])
    assert config.array.open_wordlines == 6
    assert config.adc.bits == "lossless"
    assert config.run.layers == "conv1,conv2"
    assert config.cell.full_scale_a == 3e-6


def test_a_key_of_text_takes_any_text() -> None:
    for text in ("3.10", "0", "0,3", '"0,3"', "true", "3.conv1,fc"):
        assert Config.load(None, [f"run.layers={text}"]).run.layers == text.strip('"')
        assert check_value("run.layers", text) == text.strip('"')
    assert Config.load(None, ["cell.subcircuit=7"]).cell.subcircuit == "7"
    assert Config.load(None, ["adc.bits=7"]).adc.bits == 7


def test_round_trip() -> None:
    config = Config.load(None, ["adc.bits=6", "run.seed=3"])
    assert Config.from_dict(config.model_dump()) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["array.open_wordline=9"], r"unknown key array\.open_wordline: did you mean 'open_wordlines'"),
        (["arry.open_wordlines=9"], r"unknown section 'arry': did you mean 'array'"),
        (["open_wordlines=9"], r"expected section\.key=value after --set, found 'open_wordlines=9'"),
        (["array.open_wordlines"], r"expected section\.key=value"),
        (["array.open_wordlines=0"], r"array\.open_wordlines: .*greater than or equal to 1.*found 0"),
        (["array.open_wordlines=9.5"], r"array\.open_wordlines: .*integer"),
        (["array.bitline_res_ohm=-1"], r"array\.bitline_res_ohm: .*found -1"),
        (["array.bitline_res_ohm=nan"], r"array\.bitline_res_ohm: .*finite"),
        (["array.wordlines=8"], r"array\.open_wordlines = 9 does not fit array\.wordlines = 8: open at most 8"),
        (["read.rise_s=15e-9"], r"read\.rise_s = 1\.5e-08 must be below half of read\.pulse_s"),
        (["adc.bits=17"], r"adc\.bits must be 1 to 16"),
        (["run.fidelity=spice"], r"run\.fidelity: Input should be 'ideal', 'solved', 'dc' or 'tran', found 'spice'"),
        (["run.workers=0"], r"run\.workers"),
        (["array.wordlines=true"], r"array\.wordlines: .*integer"),
        (["array.bitline_res_ohm=1e-9"], r"must be 0 or at least 1e-6"),
        (["array.bitline_res_ohm=1e9"], r"array\.bitline_res_ohm"),
        (["array.source_res_ohm=1e-9"], r"array\.source_res_ohm = 1e-09 must be 0 or at least 1e-6"),
        (
            ["array.bitline_res_ohm=400"],
            r"one full-scale cell would drop 0\.942 V .* usual values are 0\.3 to 5 ohm per cell",
        ),
        (
            ["array.source_res_ohm=20e3"],
            r"array\.source_res_ohm = 20000 .* drop 0\.736 V .* usual values are 1 to 50 ohm per cell",
        ),
        (["array.source_res_ohm=500", "array.source_strap_cells=100"], r"would drop 0\.294 V"),
        (["array.source_res_ohm=-20"], r"array\.source_res_ohm: .*found -20"),
        (["array.source_strap_cells=0"], r"array\.source_strap_cells: .*greater than or equal to 1"),
        (["array.bitline_cap_f=0.2e-12"], r"array\.bitline_cap_f = 2e-13 F per cell.*usual wires have 0\.05e-15"),
        (["array.coupling_cap_f=0.1e-12"], r"array\.coupling_cap_f = 1e-13 F per cell"),
        (["array.wordline_cap_f=0.2"], r"array\.wordline_cap_f"),
        (
            ["array.wordline_res_ohm=100e3", "array.wordline_cap_f=0.2e-15"],
            r"delay the last of 64 bitlines by 4\.1e-08 s, expected less than read\.pulse_s = 2e-08",
        ),
        (["array.closed_wordlines=cells", "array.wordlines=4096"], r"all 4096 x 64 cells .* choose \"lumped\""),
        (["array.closed_wordlines=some"], r"array\.closed_wordlines: Input should be 'lumped', 'cells' or 'omitted'"),
        (
            ["trim.method=reference", "array.encoding=differential"],
            r"needs a reference column.*\"calibration\" or \"none\"",
        ),
        (["read.mode=amplitude"], r"senses the source line of every wordline, .* found .* = 2: set it to 1"),
        ([*AMPLITUDES, "sense.stage=transistor"], r'cannot hold a line at 0 V.*choose "clamp" or "resistive"'),
        ([*AMPLITUDES, "array.bitlines=8"], r"does not fit array\.bitlines = 8: open at most 8"),
        (["read.bitline_v=4.5"], r"read\.bitline_v = 4\.5 must be below read\.wordline_v"),
        (["run.seed=" + "9" * 5000], r"run\.seed"),
        (["array.wordlines=1\nb=2"], r"array\.wordlines"),
    ],
)
def test_mistakes_are_named_with_a_remedy(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(None, overrides)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        Config.load(tmp_path / "missing.toml")
    path = tmp_path / "bad.toml"
    path.write_text("array = [")
    with pytest.raises(ConfigError, match="is not TOML"):
        Config.load(path)
    path.write_text(".".join(["a"] * 50_000) + " = 1")
    with pytest.raises(ConfigError, match="is not TOML: expected lines of at most 2048 characters"):
        Config.load(path)
    path.write_text("# nothing\n" * 30_000)
    with pytest.raises(ConfigError, match="is larger than 256 KiB, which no configuration is"):
        Config.load(path)
    path.write_text("array = 3")
    with pytest.raises(ConfigError, match="array must be a section of keys, found 3"):
        Config.load(path)


IMPOSSIBLE = r"array\.open_wordlines = 48 does not fit array\.wordlines = 40: open at most 40"


def test_every_way_of_making_a_configuration_is_checked() -> None:
    """Relations between keys hold of files, constructors, copies and changed values alike."""
    array = Array(wordlines=40, open_wordlines=48)
    ways = (
        lambda: Config(array=array),
        lambda: Config.model_validate({"array": array}),
        lambda: Config().model_copy(update={"array": array}),
        lambda: Config.from_dict({"array": {"wordlines": 40, "open_wordlines": 48}}),
        lambda: Config().with_values({"array.wordlines": 40, "array.open_wordlines": 48}),
    )
    for make in ways:
        with pytest.raises(ConfigError, match=IMPOSSIBLE):
            make()


def test_copies_of_sections_are_checked() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Array().model_copy(update={"wordlines": 0})
    assert Config().at_corner(Corner(supply=0.9)).corner == Corner(supply=0.9)
    assert Config().model_copy() == Config()


def test_the_read_at_a_corner_may_leave_the_range_of_its_keys() -> None:
    config = Config.load(None, ["read.wordline_v=20", "corner.supply=1.2"])
    assert config.read_at_corner.wordline_v == 24


def test_one_value_is_checked_by_itself() -> None:
    assert check_value("array.open_wordlines", "40") == 40
    with pytest.raises(ConfigError, match=r"configuration: array\.wordlines: .* found 0"):
        check_value("array.wordlines", 0)


def test_as_many_inputs_as_a_tile_has_lines_may_be_open() -> None:
    for wordlines in (49, 256, 4096):
        assert Config.load(None, [f"array.wordlines={wordlines}", f"array.open_wordlines={wordlines}"])
    with pytest.raises(ConfigError, match=r"array\.open_wordlines = 257 does not fit array\.wordlines = 256"):
        Config.load(None, ["array.open_wordlines=257"])


PROFILES = ("nominal", "optimistic", "realistic", "harsh")


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_a_whole_configuration(name: str) -> None:
    assert Config.load(profile=name) == Config.profile(name)


def test_profiles_get_worse_in_order() -> None:
    for key in ("variation.telegraph_traps", "adc.noise_lsb", "array.source_res_ohm", "variation.gain_factor_sigma"):
        values = [Config.profile(name).value(key) for name in PROFILES]
        assert values == sorted(set(values))
    steps = [Config.profile(name).programming.step_v for name in PROFILES[1:]]
    assert steps == sorted(set(steps))
    assert Config.profile("nominal") == Config()


def test_keys_go_on_top_of_a_profile(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[adc]\nnoise_lsb = 0.7\n[variation]\nchip = 3\n")
    config = Config.load(tmp_path / "mine.toml", ["variation.chip=4", "trim.age_s=none"], "realistic")
    assert (config.adc.noise_lsb, config.variation.chip, config.trim.age_s) == (0.7, 4, None)
    assert config.adc.gain_error == Config.profile("realistic").adc.gain_error


@pytest.mark.parametrize(
    ("profile", "settings", "message"),
    [
        ("real", [], r"unknown profile 'real': did you mean 'realistic'"),
        ("../cosim", [], r"unknown profile '\.\./cosim'"),
        ("realistic", ["trim.method=reference"], r'trim\.patterns = "images" needs trim'),
        ("realistic", ["adc.bits=none"], r"adc\.bits: .* found 'none'"),
        ("harsh", ["variation.retention_s=0", "trim.age_s=5"], r"lies after the time at which images are read"),
    ],
)
def test_what_a_profile_refuses(profile: str, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(None, settings, profile)


def test_a_regulator_keeps_the_supply_from_the_read_voltages() -> None:
    def volts(*settings: str) -> tuple[float, float]:
        config = Config.load(None, ["corner.supply=0.9", "read.wordline_v=4", "read.bitline_v=0.1", *settings])
        return config.read_at_corner.wordline_v, config.read_at_corner.bitline_v

    assert volts() == (0.9 * 4, 0.9 * 0.1)
    assert volts("read.supply_share=0.1") == pytest.approx((0.99 * 4, 0.99 * 0.1))
    assert volts("read.supply_share=0") == (4, 0.1)


def test_wordlines_follow_the_temperature() -> None:
    def volts(*settings: str) -> tuple[float, float]:
        config = Config.load(None, ["read.wordline_v=4", "read.wordline_tempco_v_per_k=-1e-3", *settings])
        return config.read_at_corner.wordline_v, config.read_at_corner.bitline_v

    assert volts() == (4, 0.1)
    assert volts("corner.temperature_c=77") == (pytest.approx(3.95), 0.1)
    assert volts("corner.temperature_c=-40", "corner.supply=0.9") == pytest.approx((3.6 + 0.067, 0.09))


def test_where_cells_are_verified() -> None:
    settings = ["corner.process=ss", "corner.temperature_c=-40", "corner.supply=0.9"]
    typical = Config.load(None, settings).at_verify.corner
    assert (typical.process, typical.temperature_c, typical.supply) == ("tt", 27, 1)
    own = Config.load(None, [*settings, "programming.process=own"]).at_verify.corner
    assert (own.process, own.temperature_c, own.supply) == ("ss", 27, 1)
