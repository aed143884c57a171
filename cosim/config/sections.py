"""The sections of a configuration: the meaning of each key, its default, and the values that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from cosim.checked import Text

Fidelity = Literal["ideal", "solved", "dc", "tran"]
Process = Literal["tt", "ff", "ss", "fs", "sf"]
# Marks keys that decide how a machine computes, but not the result. They are never taken from a stored result, since
# its file may come from a stranger.
OF_MACHINE = "of the machine"


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values, which are checked; pydantic's own `model_copy` checks nothing."""
        if not update:
            return super().model_copy(deep=deep)
        return type(self).model_validate({**dict(self), **update})


class Array(Section):
    """One tile of an array: its size, the number of wordlines that a read opens, and its wires."""

    wordlines: int = Field(256, ge=1, le=65536)
    """Rows of a tile."""
    bitlines: int = Field(64, ge=2, le=4096)
    """Columns of a tile. With encoding "offset", the last column in use is the reference column."""
    encoding: Literal["offset", "differential"] = "offset"
    """How weights are signed. offset: a cell holds weight + zero point, and the code of a reference column is
    subtracted; differential: a pair of bitlines holds positive and negative weights (docs/reading.md)."""
    open_wordlines: int = Field(9, ge=1, le=65536)
    """Inputs of one read, at most all inputs of a tile: wordlines opened together, or bitlines with amplitude reads."""
    bitline_res_ohm: float = Field(0.4, ge=0, le=1e6)
    """Wire resistance of a bitline per cell [ohm]."""
    bitline_cap_f: float = Field(0.2e-15, ge=0, le=1e-9)
    """Wire capacitance of a bitline to ground per cell [F]."""
    coupling_cap_f: float = Field(0.0, ge=0, le=1e-9)
    """Capacitance between neighbouring bitlines per cell [F]."""
    wordline_res_ohm: float = Field(0.0, ge=0, le=1e6)
    """Wire resistance of a wordline per cell [ohm]. The wordline is driven from bitline 0."""
    wordline_cap_f: float = Field(0.0, ge=0, le=1e-9)
    """Wire capacitance of a wordline to ground per cell, without the gates [F]."""
    source_res_ohm: float = Field(0.0, ge=0, le=1e6)
    """Wire resistance of a source line per cell [ohm]. The line runs along the wordlines that share it."""
    source_cap_f: float = Field(0.0, ge=0, le=1e-9)
    """Wire capacitance of a source line to ground per cell [F]."""
    source_line_wordlines: int = Field(2, ge=1, le=65536)
    """Number of neighbouring wordlines that share a source line."""
    source_strap_cells: int = Field(16, ge=1, le=65536)
    """Number of bitlines between two straps. A strap grounds the source lines; with amplitude reads it connects each of
    them to its sense stage. The first strap lies before the first bitline."""
    closed_wordlines: Literal["lumped", "cells", "omitted"] = "lumped"
    """How cells of closed wordlines are simulated. lumped: their leakage and capacitance as a few elements on each
    bitline; cells: cell by cell (slow); omitted: not at all. With amplitude reads this applies to the cells of closed
    bitlines, whose gates are open, and to the source lines."""


class Cell(Section):
    """One flash cell, and the currents of its levels."""

    card: Text = "nor65"
    """Name of a shipped card, or path of a file of .model and .subckt statements (docs/howto/own-cell.md)."""
    subcircuit: Text | None = None
    """Name of the card's subcircuit that is the cell. By default, the only one or the one named like the card."""
    shift_parameter: Text | None = None
    """Name of the subcircuit's parameter that is the threshold shift. By default, the only one besides w and l."""
    width_m: float = Field(0.1e-6, ge=1e-9, le=1e-3)
    """Drawn channel width [m]. For a subcircuit, the value of its parameter w, if it has one."""
    length_m: float = Field(0.11e-6, ge=1e-9, le=1e-3)
    """Drawn channel length [m]. For a subcircuit, the value of its parameter l, if it has one."""
    bits: int = Field(4, ge=1, le=6)
    """Bits of a cell, which holds the levels 0..2^bits - 1."""
    full_scale_a: float = Field(9.2e-6, ge=1e-12, le=1e-2)
    """Current of the highest level in the nominal read condition [A]."""
    offset_units: int = Field(8, ge=0, le=64)
    """Number of unit currents that level 0 conducts. If every level lies well above the threshold, temperature and
    supply change all levels alike, and the reference column removes the change. The offset costs current, and range of
    the converter."""

    @property
    def levels(self) -> int:
        return 2**self.bits

    @property
    def most_units(self) -> int:
        """Number of unit currents that the highest level conducts."""
        return self.levels - 1 + self.offset_units

    @property
    def unit_a(self) -> float:
        """Current between neighbouring levels [A]."""
        return self.full_scale_a / self.most_units


class Read(Section):
    """How activations are applied to the lines of a tile, and how a pattern is read (docs/reading.md)."""

    mode: Literal["bit-serial", "pulse-width", "amplitude"] = "bit-serial"
    """bit-serial: each bit plane is a read, and each read is converted; pulse-width: an activation a opens its wordline
    for a pulses, and the charge of 2^bits - 1 pulses is converted once; amplitude: an activation a puts
    a / (2^bits - 1) of `bitline_v` on a bitline, and the current of each wordline's source line, which is held at 0 V,
    is converted once."""
    mixed: Literal["nested", "direct"] = "nested"
    """How reads of several amplitudes are simulated. nested: each is composed of reads of a single amplitude, which is
    exact if cells share no line with resistance; direct: each read that occurs is simulated, so that time and tables
    grow with the number of images."""
    wordline_v: float = Field(4.0, ge=1e-3, le=20)
    """Control-gate voltage of a wordline whose input bit is 1; with amplitude reads, of all wordlines [V]."""
    bitline_v: float = Field(0.1, ge=1e-4, le=5)
    """Voltage at which the sense clamp holds a bitline; with amplitude reads, the highest amplitude [V]."""
    pulse_s: float = Field(20e-9, ge=1e-12, le=1e-3)
    """Time for which the pattern of a bit plane, or of a unit pulse, is held. The current is sampled at its end [s]."""
    supply_share: float = Field(1.0, ge=0, le=1)
    """Share of a change of the supply that reaches the read voltages of wordlines and bitlines: 1 without a regulator,
    0.1 with one that suppresses nine tenths of the change."""
    wordline_tempco_v_per_k: float = Field(0.0, ge=-0.01, le=0.01)
    """Change of the voltage of open wordlines with temperature, from 27 C on [V/K]. Flash memories let their read
    voltages follow the cells, which conduct more at lower temperatures if the voltage stays the same. With -1.4e-3,
    different gain factors do the least harm to cells of the card nor65 (docs/variation.md)."""
    rise_s: float = Field(1e-9, ge=1e-13, le=1e-3)
    """Rise and fall time of a wordline, or of a bitline with amplitude reads [s]."""


class Sense(Section):
    """The stage that holds a bitline at its read voltage and measures its current (docs/reading.md). Programming always
    uses an ideal source."""

    stage: Literal["clamp", "resistive", "transistor"] = "clamp"
    """clamp: an ideal voltage source; resistive: an ideal source in series with `clamp_ohm`; transistor: a regulated
    cascode and a current mirror, made of the transistors of card periph65 at the corner's process."""
    clamp_ohm: float = Field(100.0, ge=1e-6, le=1e6)
    """Resistance of the stage "resistive" [ohm]."""
    scale: float = Field(1.0, ge=0.5, le=8)
    """Factor on widths and lengths of the stage "transistor": mismatch falls by it, and settling takes longer."""


class Corner(Section):
    """The conditions under which arrays are read. Levels are always programmed at 27 C and nominal supply, and at the
    process that programming.process gives."""

    process: Process = "tt"
    """Section of the card. tt: cell and periphery are typical; ff: both are fast; ss: both are slow; fs and sf: the
    cell is typical and the periphery is skewed, where the first letter is that of the n-channel transistors."""
    temperature_c: float = Field(27.0, ge=-40, le=125)
    """Temperature of the circuit [C]."""
    supply: float = Field(1.0, ge=0.8, le=1.2)
    """Supply voltage, relative to nominal. The read voltages of wordlines and bitlines follow it as
    `read.supply_share` says; the supply of the sense stages follows it fully."""


class Adc(Section):
    """The converter of every bitline, and its errors (docs/variation.md)."""

    bits: int | Literal["lossless"] = Field(8)
    """Bits of a code, 1 to 16, or "lossless": one code for each unit current, without a highest code."""
    range: Literal["cover", "calibrated-layer", "calibrated-column"] = "cover"
    """The sum that the highest code must reach. cover: the largest possible column sum; calibrated-layer: the largest
    sum that sample images cause in a layer; calibrated-column: the largest in each column of the layer's tiles. A code
    is a whole number of unit currents, at least one: for "cover" the number that comes closest, otherwise the smallest
    that reaches the sum."""
    full_scale_units: float | None = Field(None, ge=1e-3, le=1e9)
    """Current of the highest code in unit currents, used instead of `range`. With read.mode "pulse-width", the highest
    code is the charge of this current over all pulses."""
    calibration_images: int = Field(64, ge=1, le=65536)
    """Number of training images, the last of the training set, for a calibrated range and for `trim.patterns`."""
    reference: Literal["fixed", "replica"] = "fixed"
    """The source of the current of a code. fixed: a fixed source; replica: replica columns of cells at the highest
    level minus others at level 0, which follow temperature and supply as the array does (docs/calibration.md)."""
    replica_columns: int = Field(4, ge=1, le=256)
    """Pairs of replica columns whose currents are averaged. A column has `array.open_wordlines` open cells."""
    replica_per: Literal["tile", "chip"] = "tile"
    """Whether each tile has its own replica columns, or the chip has one set."""
    offset_lsb: float = Field(0.0, ge=0, le=100)
    """Sigma of a converter's offset [LSB]."""
    gain_error: float = Field(0.0, ge=0, le=0.2)
    """Sigma of a converter's gain, relative."""
    capacitor_sigma: float = Field(0.0, ge=0, le=0.2)
    """Relative sigma of a unit capacitor of the successive-approximation converter, which causes INL and DNL."""
    noise_lsb: float = Field(0.0, ge=0, le=100)
    """Sigma of the noise at a converter's input, drawn for every read [LSB]."""


class Trim(Section):
    """How and when gain and offset of the converters are set on the finished chip (docs/calibration.md)."""

    method: Literal["none", "reference", "calibration"] = "calibration"
    """none: no trim; reference: a tile's LSB follows the current of its reference column with all wordlines of a group
    open; calibration: gain and offset are fitted to known reads, by least squares."""
    per: Literal["layer", "bitline"] = "bitline"
    """Whether a calibration finds one gain and offset for a layer, or for each bitline."""
    reads: int = Field(32, ge=4, le=4096)
    """Largest number of calibration reads of a group."""
    patterns: Literal["random", "images"] = "random"
    """Inputs that calibration reads open. random: random inputs; images: the inputs that training images
    (`adc.calibration_images`) open."""
    density: float = Field(0.25, gt=0, le=1)
    """Share of the inputs that random calibration reads open."""
    temperature_c: float | None = Field(None, ge=-40, le=125)
    """Temperature at the calibration [C]. By default, that at which images are read, so that every corner is calibrated
    for itself."""
    supply: float | None = Field(None, ge=0.8, le=1.2)
    """Supply at the calibration, as `corner.supply`. By default, that at which images are read."""
    age_s: float | None = Field(None, ge=0, le=1e10)
    """Time from programming to the first calibration [s]. By default, it is done just before images are read."""
    interval_s: float | None = Field(None, gt=0, le=1e10)
    """Time from one calibration to the next [s]. By default, there is only one calibration."""
    through: Literal["currents", "codes"] = "currents"
    """Whether calibration uses exact currents before the converters, or codes with their noise and non-linearity."""
    repeats: int = Field(16, ge=1, le=65536)
    """Number of codes of each calibration read that are averaged."""
    registers: Literal["exact", "analog", "digital", "both"] = "exact"
    """How the correction is made. exact: without rounding; analog: by registers before the converter, which set the
    current of a code and the current at which codes begin; digital: on the codes; both: on the codes, for the error
    that remains after the analog registers."""
    gain_bits: int = Field(8, ge=1, le=24)
    """Bits of a gain register."""
    gain_range: float = Field(0.25, gt=0, lt=1)
    """A gain register corrects by a factor of 1 plus or minus this."""
    offset_bits: int = Field(8, ge=1, le=24)
    """Bits of an offset register."""
    offset_range_lsb: float = Field(32.0, gt=0, le=65536)
    """An offset register corrects by plus or minus this [LSB]."""
    fraction_bits: int = Field(4, ge=0, le=12)
    """Number of fraction bits of a digitally corrected code."""


class Variation(Section):
    """Differences between chips, and between a cell and its programmed level (docs/variation.md)."""

    chip: int = Field(0, ge=0, lt=2**32)
    """Number of the virtual chip. Together with run.seed it decides everything that is drawn."""
    program_sigma_v: float = Field(0.0, ge=0, le=5)
    """Sigma of a cell's programmed threshold about that of its level [V]."""
    program_sigma_rel: float = Field(0.0, ge=0, le=1)
    """Sigma of a cell's programmed current, relative to the current."""
    program_saturation_a: float | None = Field(None, ge=1e-12, le=1)
    """Current above which the sigma of `program_sigma_rel` no longer grows with the current [A]. By default, there is
    no such limit."""
    verify_band_v: float | None = Field(None, ge=1e-6, le=5)
    """Programming is repeated until the threshold lies within plus or minus this value of that of its level [V]. By
    default, it is not repeated, and the sigmas are those of the finished cell."""
    gain_factor_sigma: float = Field(0.0, ge=0, le=0.5)
    """Sigma of a cell's gain factor, relative. Verify removes its effect at the nominal corner, but not elsewhere."""
    coupling_sigma: float = Field(0.0, ge=0, le=0.2)
    """Sigma of a cell's coupling ratio, relative. It has no effect at the wordline voltage of verify."""
    tempco_sigma_v_per_k: float = Field(0.0, ge=0, le=1e-2)
    """Sigma of the temperature coefficient of a cell's threshold [V/K]. It has no effect at 27 degrees C."""
    retention_s: float = Field(0.0, ge=0, le=1e10)
    """Time since programming [s]."""
    retention_temperature_c: float = Field(25.0, ge=-55, le=250)
    """Temperature during `retention_s` [degree C]."""
    retention_loss_decade: float = Field(0.005, ge=0, le=0.5)
    """Share of a cell's charge that is lost in each decade of time at 25 degrees C."""
    retention_onset_s: float = Field(1800.0, ge=1e-3, le=1e9)
    """Time at 25 degrees C before which almost no charge is lost [s]."""
    retention_activation_ev: float = Field(1.1, ge=0, le=3)
    """Activation energy with which temperature accelerates the loss [eV]."""
    retention_spread: float = Field(0.0, ge=0, le=1)
    """Sigma of a cell's loss of charge, relative to the mean loss."""
    retention_tail_share: float = Field(0.0, ge=0, le=0.5)
    """Share of the cells that lose more charge, through paths of traps in their oxide."""
    retention_tail: float = Field(5.0, ge=0, le=1e3)
    """Mean additional loss of these cells, in multiples of the mean loss. It is exponentially distributed."""
    neutral_shift_v: float = Field(0.0, ge=-20, le=20)
    """Threshold shift of a cell without charge [V]."""
    read_sigma_rel: float = Field(0.0, ge=0, le=1)
    """Sigma of a cell's current from read to read, relative to the current."""
    read_saturation_a: float | None = Field(None, ge=1e-12, le=1)
    """Current above which the sigma of `read_sigma_rel` no longer grows with the current [A]. By default, there is no
    such limit."""
    telegraph_traps: float = Field(0.0, ge=0, le=100)
    """Mean number of active traps in a cell (random telegraph noise)."""
    telegraph_shift_v: float = Field(7e-3, ge=0, le=1)
    """Mean threshold shift of a filled trap [V]. Shifts are exponentially distributed."""
    telegraph_fastest_s: float = Field(1e-6, ge=1e-12, le=1e9)
    """Shortest time constant of traps [s]. The logarithms of time constants are evenly distributed."""
    telegraph_slowest_s: float = Field(100.0, ge=1e-12, le=1e9)
    """Longest time constant of traps [s]."""
    sense_gain_sigma: float = Field(0.0, ge=0, le=0.2)
    """Sigma of a sense stage's gain, relative."""
    sense_offset_sigma_a: float = Field(0.0, ge=0, le=1e-3)
    """Sigma of a sense stage's offset current [A]."""
    sense_avt_v_m: float = Field(0.0, ge=0, le=1e-7)
    """Pelgrom coefficient A of the threshold mismatch of the sense stage's transistors, with sense.stage "transistor"
    [V m]. The sigma of the difference of a pair is A / sqrt(w l)."""
    sense_abeta_m: float = Field(0.0, ge=0, le=1e-6)
    """Pelgrom coefficient of the relative mismatch of these transistors' current factors [m]."""

    @property
    def sense_mismatch(self) -> bool:
        """Whether the transistors of sense stages differ."""
        return self.sense_avt_v_m > 0 or self.sense_abeta_m > 0

    @property
    def program_error(self) -> bool:
        """Whether the programmed thresholds of cells differ from those of their levels."""
        return self.program_sigma_v > 0 or self.program_sigma_rel > 0

    @property
    def mismatch(self) -> bool:
        """Whether cells that verify has set to the same current differ in other conditions."""
        return self.gain_factor_sigma > 0 or self.coupling_sigma > 0 or self.tempco_sigma_v_per_k > 0


class Programming(Section):
    """How cells get the thresholds of their levels (docs/programming.md)."""

    method: Literal["normal", "pulses"] = "normal"
    """normal: thresholds are drawn about the level, with variation.program_sigma_v and program_sigma_rel; pulses: an
    erased cell gets incremental pulses, each followed by a verify, until its current lies in its band."""
    process: Literal["typical", "own"] = "typical"
    """The chip on which cells are verified to their levels. typical: a chip of process tt, whose thresholds all other
    chips get, so that their currents differ; own: the chip itself, so that verify removes the effect of its process
    (corner.process)."""
    step_v: float = Field(0.02, ge=1e-4, le=2)
    """Step of the wordline voltage from pulse to pulse. In the steady state, a cell's threshold rises by it too [V]."""
    efold_v: float = Field(0.6, ge=0.02, le=5)
    """Change of a cell's threshold, or of the wordline voltage, that changes the injected current by a factor of e
    [V]."""
    capacitance_f: float = Field(1e-16, ge=1e-18, le=1e-13)
    """Capacitance C between control gate and floating gate [F]. An electron shifts the threshold by q / C."""
    speed_sigma_v: float = Field(0.1, ge=0, le=2)
    """Sigma of the wordline voltage that cells need for the same injected current [V]."""
    erased_shift_v: float = Field(-1.0, ge=-4, le=4)
    """Mean threshold shift of erased cells, from which pulses start [V]."""
    erased_sigma_v: float = Field(0.15, ge=0, le=2)
    """Sigma of the threshold of erased cells [V]."""
    band_units: float = Field(0.1, ge=0, le=10)
    """A verify ends the pulses of a cell whose current exceeds that of its level by at most this [unit currents]."""
    verify_noise_a: float = Field(1e-8, ge=0, le=1e-3)
    """Sigma of the noise of a verify, in addition to the cell's (variation.read_sigma_rel) [A]."""
    pulse_s: float = Field(1e-6, ge=1e-9, le=1)
    """Time of a pulse [s]."""
    verify_s: float = Field(1e-7, ge=1e-9, le=1)
    """Time of a verify [s]."""


class Defects(Section):
    """Cells and bitlines that do not work, and spare bitlines (docs/variation.md)."""

    off_share: float = Field(0.0, ge=0, le=1)
    """Share of the cells that are stuck off, which never conduct."""
    on_share: float = Field(0.0, ge=0, le=1)
    """Share of the cells that are stuck on, which conduct at least the current of the highest level."""
    on_below_v: float = Field(0.0, ge=0, le=5)
    """Distance of the threshold of a cell that is stuck on below that of the highest level [V]."""
    bitline_share: float = Field(0.0, ge=0, le=1)
    """Share of the bitlines (with amplitude reads, of the source lines) that are dead, which carry no current to their
    sense stage."""
    spare_bitlines: int = Field(0, ge=0, le=4096)
    """Number of spare bitlines of a tile, in addition to `array.bitlines`, that replace dead ones."""

    @property
    def stuck(self) -> bool:
        """Whether there are stuck cells."""
        return self.off_share > 0 or self.on_share > 0


class Run(Section):
    """How a run is carried out. `fidelity` decides what is simulated, and `rescale` how numbers are scaled between
    layers; all other keys change currents by less than the simulator's tolerances, if at all."""

    fidelity: Fidelity = "tran"
    """ideal: exact integers; solved: settled currents from the array solver, certified by transients; dc: settled
    currents from ngspice .dc; tran: currents from ngspice .tran (the reference)."""
    layers: Text = "conv"
    """Layers on arrays: "conv", "all", or names separated by commas."""
    rescale: Literal["fixed", "float"] = "fixed"
    """How layers on arrays quantize their inputs and scale their sums. fixed: by integer multipliers and shifts, as a
    chip does (docs/architecture.md); float: in floating point, as software does."""
    rescale_bits: int = Field(16, ge=4, le=24)
    """Bits of the integer multipliers, without their sign."""
    workers: Annotated[int | None, OF_MACHINE] = Field(None, ge=1, le=256)
    """Number of ngspice processes at a time. By default, one per core."""
    tensor_threads: Annotated[int, OF_MACHINE] = Field(1, ge=1, le=256)
    """Threads of the command line's tensor work. On two cores one is fastest, especially next to other work."""
    patterns_per_deck: int = Field(256, ge=1, le=4096)
    """Number of reads in one deck."""
    timeout_s: Annotated[float, OF_MACHINE] = Field(120.0, gt=0, le=1e6)
    """Longest time that one ngspice run may take [s]."""
    ngspice: Annotated[Text, OF_MACHINE] = "ngspice"
    """The ngspice program: a name on the PATH, or a path."""
    certificate_reads: int = Field(1000, ge=0, le=1_000_000)
    """Number of reads that certify a solved result: they are drawn from those that the images caused, and simulated as
    transients. 0 for no certificate."""
    certificate_lsb: float = Field(0.05, gt=0, le=1e3)
    """Largest difference between a read of the certificate and its transient; a result that exceeds it is refused
    [LSB]."""
    keep_reads: bool = False
    """Whether a run's file holds every read of every group, in addition to their figures and densities."""
    noise: Literal["reads", "sums"] = "reads"
    """reads: noise is drawn for every read; sums: it is drawn for every sum of a layer, from the means and variances of
    the codes that the sum adds up, which is many times faster and nearly the same (docs/variation.md)."""
    audit_reads: int = Field(64, ge=1, le=1024)
    """Number of reads in one audit deck, which are simulated in the order in which the images cause them."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of everything random: chips, noise, and the choice of reads that are audited or certified."""
