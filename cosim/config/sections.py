"""The sections of a configuration: what each key is, its default, and which values it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from cosim.checked import Text

Fidelity = Literal["ideal", "solved", "dc", "tran"]
Process = Literal["tt", "ff", "ss", "fs", "sf"]
# Marks keys that say how a machine computes, and nothing about the result. They are never taken from a file that tells
# how a result came about, since such a file may come from a stranger.
OF_MACHINE = "of the machine"


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, checked as whatever else is made; pydantic's own takes any value."""
        if not update:
            return super().model_copy(deep=deep)
        return type(self).model_validate({**dict(self), **update})


class Array(Section):
    """One tile: its size, how many wordlines a read opens, and its wires."""

    wordlines: int = Field(256, ge=1, le=65536)
    """Rows of a tile."""
    bitlines: int = Field(64, ge=2, le=4096)
    """Columns of a tile; with encoding "offset" the last one used is the reference column."""
    encoding: Literal["offset", "differential"] = "offset"
    """Signed weights: offset, a cell holds weight + zero point and a reference column is subtracted; differential, a
    pair of bitlines holds positive and negative weights (docs/reading.md)."""
    open_wordlines: int = Field(9, ge=1, le=65536)
    """Inputs of one read, at most all of a tile: wordlines opened together, or bitlines with amplitude reads."""
    bitline_res_ohm: float = Field(0.4, ge=0, le=1e6)
    """Wire resistance of a bitline a cell [ohm]."""
    bitline_cap_f: float = Field(0.2e-15, ge=0, le=1e-9)
    """Wire capacitance of a bitline to ground a cell [F]."""
    coupling_cap_f: float = Field(0.0, ge=0, le=1e-9)
    """Capacitance between neighbouring bitlines a cell [F]."""
    wordline_res_ohm: float = Field(0.0, ge=0, le=1e6)
    """Wire resistance of a wordline a cell [ohm]; it is driven from bitline 0."""
    wordline_cap_f: float = Field(0.0, ge=0, le=1e-9)
    """Wire capacitance of a wordline to ground a cell, without the gates [F]."""
    source_res_ohm: float = Field(0.0, ge=0, le=1e6)
    """Wire resistance of a source line a cell [ohm]; it runs along the wordlines that share it."""
    source_cap_f: float = Field(0.0, ge=0, le=1e-9)
    """Wire capacitance of a source line to ground a cell [F]."""
    source_line_wordlines: int = Field(2, ge=1, le=65536)
    """Neighbouring wordlines that share a source line."""
    source_strap_cells: int = Field(16, ge=1, le=65536)
    """A strap grounds the source lines before the first bitline and after every so many; with amplitude reads it
    connects each to its sense stage."""
    closed_wordlines: Literal["lumped", "cells", "omitted"] = "lumped"
    """Cells of closed wordlines: their leakage and capacitance as a few elements a bitline, cell by cell (slow), or
    left out. With amplitude reads those of closed bitlines, whose gates are open, likewise on the source lines."""


class Cell(Section):
    """One flash cell and what its levels mean."""

    card: Text = "nor65"
    """A shipped card's name, or the path of a file of .model and .subckt statements (docs/howto/own-cell.md)."""
    subcircuit: Text | None = None
    """The card's subcircuit that is the cell; left out, the only one or the one named like the card."""
    shift_parameter: Text | None = None
    """The subcircuit's parameter that is the threshold shift; left out, the only one besides w and l."""
    width_m: float = Field(0.1e-6, ge=1e-9, le=1e-3)
    """Drawn channel width [m]; of a subcircuit its parameter w, if it has one."""
    length_m: float = Field(0.11e-6, ge=1e-9, le=1e-3)
    """Drawn channel length [m]; of a subcircuit its parameter l, if it has one."""
    bits: int = Field(4, ge=1, le=6)
    """A cell holds levels 0..2^bits - 1."""
    full_scale_a: float = Field(9.2e-6, ge=1e-12, le=1e-2)
    """Current of the highest level, nominal read condition [A]."""
    offset_units: int = Field(8, ge=0, le=64)
    """Unit currents that level 0 conducts. Clear of the threshold, all levels follow temperature and supply alike, and
    the reference column takes out what is common; it costs current and range of the converter."""

    @property
    def levels(self) -> int:
        return 2**self.bits

    @property
    def most_units(self) -> int:
        """Unit currents that the highest level conducts."""
        return self.levels - 1 + self.offset_units

    @property
    def unit_a(self) -> float:
        """Current between neighbouring levels [A]."""
        return self.full_scale_a / self.most_units


class Read(Section):
    """How activations are applied to the lines of a tile, and a pattern is read (docs/reading.md)."""

    mode: Literal["bit-serial", "pulse-width", "amplitude"] = "bit-serial"
    """bit-serial: a bit plane a read, each converted; pulse-width: an activation a opens its wordline for a pulses, and
    the charge of 2^bits - 1 pulses is converted once; amplitude: an activation a puts a / (2^bits - 1) of `bitline_v`
    on a bitline, and the current of each wordline's source line, held at 0 V, is converted once."""
    mixed: Literal["nested", "direct"] = "nested"
    """Reads of several amplitudes: nested, put together of listed reads of one amplitude each, which is exact where
    cells share no line with resistance; direct, each as it occurs, so that time and tables grow with the images."""
    wordline_v: float = Field(4.0, ge=1e-3, le=20)
    """Control-gate voltage of an open wordline whose input bit is 1, or of all with amplitude reads [V]."""
    bitline_v: float = Field(0.1, ge=1e-4, le=5)
    """Voltage at which the sense clamp holds a bitline, or of the highest amplitude [V]."""
    pulse_s: float = Field(20e-9, ge=1e-12, le=1e-3)
    """Time a pattern is held: a bit plane's, or a unit pulse; the current is sampled at its end [s]."""
    supply_share: float = Field(1.0, ge=0, le=1)
    """Share of a change of the supply that reaches the read voltages of wordlines and bitlines: 1 without a regulator,
    0.1 behind one that takes out nine tenths."""
    wordline_tempco_v_per_k: float = Field(0.0, ge=-0.01, le=0.01)
    """How much the voltage of open wordlines rises with temperature, from 27 C [V/K]. Read voltages of flash memories
    are made to follow the cells, which conduct more as they get colder at a given voltage: with -1.4e-3, gain factors
    that differ do least harm to cells of the card nor65 (docs/variation.md)."""
    rise_s: float = Field(1e-9, ge=1e-13, le=1e-3)
    """Rise and fall time of a wordline, or of a bitline with amplitude reads [s]."""


class Sense(Section):
    """What holds a bitline at its read voltage and measures its current (docs/reading.md). Cells are programmed against
    an ideal source, whatever the stage."""

    stage: Literal["clamp", "resistive", "transistor"] = "clamp"
    """An ideal source; the same behind `clamp_ohm`; or a regulated cascode and a current mirror of the transistors of
    card periph65, at the corner's process."""
    clamp_ohm: float = Field(100.0, ge=1e-6, le=1e6)
    """Resistance of the stage "resistive" [ohm]."""
    scale: float = Field(1.0, ge=0.5, le=8)
    """Factor on widths and lengths of the stage "transistor": mismatch falls by it, and settling takes longer."""


class Corner(Section):
    """Where the arrays are read. Levels are programmed at 27 C and nominal supply, whatever the corner, and at the
    process that programming.process says."""

    process: Process = "tt"
    """The card's section: the cell and its periphery typical (tt), both fast (ff) or slow (ss), or typical with skewed
    periphery (fs, sf: n-channel first)."""
    temperature_c: float = Field(27.0, ge=-40, le=125)
    """Temperature of the circuit [C]."""
    supply: float = Field(1.0, ge=0.8, le=1.2)
    """Supply voltage, relative to nominal. Read voltages of wordlines and bitlines follow it (`read.supply_share`), and
    so does that of sense stages."""


class Adc(Section):
    """The converter behind every bitline, and what is wrong with it (docs/variation.md)."""

    bits: int | Literal["lossless"] = Field(8)
    """1 to 16, or "lossless": one code a unit current, unbounded."""
    range: Literal["cover", "calibrated-layer", "calibrated-column"] = "cover"
    """What the codes cover: the largest possible column sum, or the largest sum that sample images cause in a layer or
    in each column of its tiles. A code is a whole number of unit currents, at least one: for "cover" the number that
    comes closest, else the smallest that reaches the sum."""
    full_scale_units: float | None = Field(None, ge=1e-3, le=1e9)
    """Current of the highest code in unit currents, instead of a range that is worked out; with read.mode "pulse-width"
    its charge is that current for all pulses."""
    calibration_images: int = Field(64, ge=1, le=65536)
    """Training images that a calibrated range and `trim.patterns` go by: the last of the training set."""
    reference: Literal["fixed", "replica"] = "fixed"
    """What decides the current of a code: a fixed source; or replica columns of cells at the highest level, less others
    at level 0, which follow temperature and supply as the array does (docs/calibration.md)."""
    replica_columns: int = Field(4, ge=1, le=256)
    """Pairs of replica columns whose currents are averaged; a column has `array.open_wordlines` open cells."""
    replica_per: Literal["tile", "chip"] = "tile"
    """What has replica columns of its own."""
    offset_lsb: float = Field(0.0, ge=0, le=100)
    """Sigma of a converter's offset [LSB]."""
    gain_error: float = Field(0.0, ge=0, le=0.2)
    """Sigma of a converter's gain, relative."""
    capacitor_sigma: float = Field(0.0, ge=0, le=0.2)
    """Relative sigma of a unit capacitor of the successive-approximation converter; makes INL and DNL."""
    noise_lsb: float = Field(0.0, ge=0, le=100)
    """Sigma of the noise at a converter's input, drawn for every read [LSB]."""


class Trim(Section):
    """How and when gain and offset of the converters are set on the finished chip (docs/calibration.md)."""

    method: Literal["none", "reference", "calibration"] = "calibration"
    """none; reference: a tile's LSB follows the current of its reference column with every wordline of a group open;
    calibration: gain and offset from known reads like those of images, by least squares."""
    per: Literal["layer", "bitline"] = "bitline"
    """What has a gain and an offset of its own in a calibration."""
    reads: int = Field(32, ge=4, le=4096)
    """Calibration reads of a group, at most."""
    patterns: Literal["random", "images"] = "random"
    """What calibration reads open: inputs at random, or what training images (`adc.calibration_images`) open."""
    density: float = Field(0.25, gt=0, le=1)
    """Share of the inputs that random calibration reads open."""
    temperature_c: float | None = Field(None, ge=-40, le=125)
    """Temperature at the calibration [C]; left out, that at which images are read, so that every corner has its own."""
    supply: float | None = Field(None, ge=0.8, le=1.2)
    """Supply at the calibration, as `corner.supply`; left out, that at which images are read."""
    age_s: float | None = Field(None, ge=0, le=1e10)
    """Time from programming to the first calibration [s]; left out, it is done just before images are read."""
    interval_s: float | None = Field(None, gt=0, le=1e10)
    """Time from one calibration to the next [s]; left out, the first is the only one."""
    through: Literal["currents", "codes"] = "currents"
    """What calibration sees: exact currents in front of the converters, or codes with noise and non-linearity."""
    repeats: int = Field(16, ge=1, le=65536)
    """How many codes of each calibration read are averaged."""
    registers: Literal["exact", "analog", "digital", "both"] = "exact"
    """Where the correction is made: exactly; by registers in front of the converter, which decide the current of a code
    and where codes begin; on codes; or on codes for what registers in front leave."""
    gain_bits: int = Field(8, ge=1, le=24)
    """Bits of a gain register."""
    gain_range: float = Field(0.25, gt=0, lt=1)
    """A gain register corrects by a factor of 1 plus or minus this."""
    offset_bits: int = Field(8, ge=1, le=24)
    """Bits of an offset register."""
    offset_range_lsb: float = Field(32.0, gt=0, le=65536)
    """An offset register corrects by plus or minus this [LSB]."""
    fraction_bits: int = Field(4, ge=0, le=12)
    """Fraction bits of a code that is corrected digitally."""


class Variation(Section):
    """What makes one chip differ from another, and a cell from what was programmed (docs/variation.md)."""

    chip: int = Field(0, ge=0, lt=2**32)
    """Number of the virtual chip: with run.seed, decides everything that is drawn."""
    program_sigma_v: float = Field(0.0, ge=0, le=5)
    """Sigma of a cell's threshold about its level's as programmed [V]."""
    program_sigma_rel: float = Field(0.0, ge=0, le=1)
    """Sigma of a cell's current as programmed, relative to the current."""
    program_saturation_a: float | None = Field(None, ge=1e-12, le=1)
    """Current at which the sigma of `program_sigma_rel` stops growing with the current [A]; left out, never."""
    verify_band_v: float | None = Field(None, ge=1e-6, le=5)
    """Programming is repeated until the threshold lies within plus or minus this of its level's [V]; left out, it is
    not repeated and the sigmas are those of the finished cell."""
    gain_factor_sigma: float = Field(0.0, ge=0, le=0.5)
    """Sigma of a cell's gain factor, relative. Verify at the nominal corner hides it, other corners show it."""
    coupling_sigma: float = Field(0.0, ge=0, le=0.2)
    """Sigma of a cell's coupling ratio, relative; hidden at the wordline voltage of verify."""
    tempco_sigma_v_per_k: float = Field(0.0, ge=0, le=1e-2)
    """Sigma of the temperature coefficient of a cell's threshold [V/K]; hidden at 27 degrees C."""
    retention_s: float = Field(0.0, ge=0, le=1e10)
    """Time since programming [s]."""
    retention_temperature_c: float = Field(25.0, ge=-55, le=250)
    """Temperature of that time [degree C]."""
    retention_loss_decade: float = Field(0.005, ge=0, le=0.5)
    """Share of a cell's charge lost for each tenfold time at 25 degrees C."""
    retention_onset_s: float = Field(1800.0, ge=1e-3, le=1e9)
    """Time at 25 degrees C before which next to nothing is lost [s]."""
    retention_activation_ev: float = Field(1.1, ge=0, le=3)
    """Activation energy by which temperature shortens time [eV]."""
    retention_spread: float = Field(0.0, ge=0, le=1)
    """Sigma of a cell's loss of charge, relative to the mean loss."""
    retention_tail_share: float = Field(0.0, ge=0, le=0.5)
    """Share of the cells that lose more, through paths of traps in their oxide."""
    retention_tail: float = Field(5.0, ge=0, le=1e3)
    """What these lose in addition, on average, in multiples of the mean loss; distributed exponentially."""
    neutral_shift_v: float = Field(0.0, ge=-20, le=20)
    """Threshold shift of a cell without charge [V]."""
    read_sigma_rel: float = Field(0.0, ge=0, le=1)
    """Sigma of a cell's current from read to read, relative to the current."""
    read_saturation_a: float | None = Field(None, ge=1e-12, le=1)
    """Current at which the sigma of `read_sigma_rel` stops growing with the current [A]; left out, never."""
    telegraph_traps: float = Field(0.0, ge=0, le=100)
    """Active traps in a cell on average (random telegraph noise)."""
    telegraph_shift_v: float = Field(7e-3, ge=0, le=1)
    """Mean threshold shift of a filled trap; shifts are exponentially distributed [V]."""
    telegraph_fastest_s: float = Field(1e-6, ge=1e-12, le=1e9)
    """Shortest time constant of traps, whose logarithms are evenly distributed [s]."""
    telegraph_slowest_s: float = Field(100.0, ge=1e-12, le=1e9)
    """Longest time constant of traps [s]."""
    sense_gain_sigma: float = Field(0.0, ge=0, le=0.2)
    """Sigma of a sense stage's gain, relative."""
    sense_offset_sigma_a: float = Field(0.0, ge=0, le=1e-3)
    """Sigma of a sense stage's offset current [A]."""

    sense_avt_v_m: float = Field(0.0, ge=0, le=1e-7)
    """Pelgrom coefficient of threshold mismatch of the sense stage's transistors: sigma of a pair's difference is this
    / sqrt(w l) [V m]; with sense.stage "transistor"."""
    sense_abeta_m: float = Field(0.0, ge=0, le=1e-6)
    """The same of the relative mismatch of their current factors [m]."""

    @property
    def sense_mismatch(self) -> bool:
        """Whether the transistors of sense stages differ."""
        return self.sense_avt_v_m > 0 or self.sense_abeta_m > 0

    @property
    def program_error(self) -> bool:
        """Whether cells differ from their levels as programmed."""
        return self.program_sigma_v > 0 or self.program_sigma_rel > 0

    @property
    def mismatch(self) -> bool:
        """Whether cells that were verified to the same current differ elsewhere."""
        return self.gain_factor_sigma > 0 or self.coupling_sigma > 0 or self.tempco_sigma_v_per_k > 0


class Programming(Section):
    """How cells get the thresholds of their levels (docs/programming.md)."""

    method: Literal["normal", "pulses"] = "normal"
    """normal: a distribution about the level, of variation.program_sigma_v and _rel; pulses: incremental pulses from an
    erased cell, each followed by a verify, until the cell's current lies in its band."""
    process: Literal["typical", "own"] = "typical"
    """Where cells are verified to their levels. typical: on a chip of process tt, so that other chips get its
    thresholds and conduct other currents; own: on the chip itself, whose process (corner.process) verify takes out."""
    step_v: float = Field(0.02, ge=1e-4, le=2)
    """Step of the wordline from pulse to pulse, by which the threshold of a cell that follows rises [V]."""
    efold_v: float = Field(0.6, ge=0.02, le=5)
    """Change of a cell's threshold, or of the wordline, that changes the injected current e-fold [V]."""
    capacitance_f: float = Field(1e-16, ge=1e-18, le=1e-13)
    """Capacitance between control gate and floating gate; an electron shifts the threshold by q / C [F]."""
    speed_sigma_v: float = Field(0.1, ge=0, le=2)
    """Sigma of how much more wordline voltage one cell needs than another [V]."""
    erased_shift_v: float = Field(-1.0, ge=-4, le=4)
    """Mean threshold shift of erased cells, where pulses begin [V]."""
    erased_sigma_v: float = Field(0.15, ge=0, le=2)
    """Sigma of the threshold of erased cells [V]."""
    band_units: float = Field(0.1, ge=0, le=10)
    """A verify stops the pulses of a cell whose current is at most its level's and this much more [unit currents]."""
    verify_noise_a: float = Field(1e-8, ge=0, le=1e-3)
    """Sigma of the noise of a verify, beside that of the cell (variation.read_sigma_rel) [A]."""
    pulse_s: float = Field(1e-6, ge=1e-9, le=1)
    """Time of a pulse [s]."""
    verify_s: float = Field(1e-7, ge=1e-9, le=1)
    """Time of a verify [s]."""


class Defects(Section):
    """Cells and bitlines that do not work, and spare bitlines (docs/variation.md)."""

    off_share: float = Field(0.0, ge=0, le=1)
    """Share of the cells that are stuck off, and never conduct."""
    on_share: float = Field(0.0, ge=0, le=1)
    """Share of the cells that are stuck on, and conduct at least what the highest level conducts."""
    on_below_v: float = Field(0.0, ge=0, le=5)
    """How far the threshold of a cell that is stuck on lies below that of the highest level [V]."""
    bitline_share: float = Field(0.0, ge=0, le=1)
    """Share of the bitlines that are dead, and carry no current to their sense stage; of source lines with amplitude
    reads."""
    spare_bitlines: int = Field(0, ge=0, le=4096)
    """Spare bitlines of a tile, beside `array.bitlines`, that replace dead ones."""

    @property
    def stuck(self) -> bool:
        """Whether there are stuck cells."""
        return self.off_share > 0 or self.on_share > 0


class Run(Section):
    """How a run is carried out. `fidelity` decides what is simulated, and `rescale` how numbers go from layer to layer;
    the rest moves currents by less than the simulator's tolerances, if at all."""

    fidelity: Fidelity = "tran"
    """ideal integers; solved, settled currents by the array solver, certified by transients; ngspice .dc (settled); or
    ngspice .tran (the reference)."""
    layers: Text = "conv"
    """Layers on arrays: "conv", "all", or names separated by commas."""
    rescale: Literal["fixed", "float"] = "fixed"
    """How layers on arrays quantize their inputs and scale their sums: fixed, by integer multipliers and shifts as a
    chip does it (docs/architecture.md); float, as software does."""
    rescale_bits: int = Field(16, ge=4, le=24)
    """Bits of these multipliers, sign apart."""
    workers: Annotated[int | None, OF_MACHINE] = Field(None, ge=1, le=256)
    """ngspice processes at a time; left out, one a core."""
    tensor_threads: Annotated[int, OF_MACHINE] = Field(1, ge=1, le=256)
    """Threads of the command line's tensor work; on two cores one is fastest, by far so beside other work."""
    patterns_per_deck: int = Field(256, ge=1, le=4096)
    """Reads in one deck."""
    timeout_s: Annotated[float, OF_MACHINE] = Field(120.0, gt=0, le=1e6)
    """Longest time one ngspice run may take [s]."""
    ngspice: Annotated[Text, OF_MACHINE] = "ngspice"
    """The ngspice program: a name on the PATH, or a path."""
    certificate_reads: int = Field(1000, ge=0, le=1_000_000)
    """Reads drawn from those the images caused and simulated as transients, to certify a solved result; 0 for no
    certificate."""
    certificate_lsb: float = Field(0.05, gt=0, le=1e3)
    """Largest distance from its transient that a read of a certificate may have; a result beyond it is refused
    [LSB]."""
    keep_reads: bool = False
    """Whether a run's file holds every read of every group, beside their figures and densities."""
    noise: Literal["reads", "sums"] = "reads"
    """For what noise is drawn: every read; or every sum of a layer, by means and variances of the codes that it adds
    up, which is many times faster and nearly the same (docs/variation.md)."""
    audit_reads: int = Field(64, ge=1, le=1024)
    """Reads of one audit deck, simulated in the order the images cause them."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seeds everything random: chips, noise, and which reads are audited or certified."""
