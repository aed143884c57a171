"""Makes the source of currents that a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from cosim.config import Config
from cosim.currents.ideal import IdealSource
from cosim.currents.programming import program
from cosim.currents.request import CurrentSource
from cosim.currents.simulated import SpiceSource
from cosim.currents.solved import SolvedSource
from cosim.errors import ConfigError
from cosim.spice import Simulator, Store


def make_source(config: Config, store: str | Path | None = None) -> CurrentSource:
    """Make the source for `run.fidelity`, and program its cell.

    Args:
        config: the configuration.
        store: directory of simulation results; None for $COSIM_STORE or the user's cache directory.

    Raises:
        CardError: the card does not describe a cell, or the cell cannot reach the requested currents.
        ConfigError: errors are so large that no two levels can be told apart.
        MachineError: ngspice is missing or too old.
        SimulationError: ngspice failed.
    """
    if config.run.fidelity == "ideal":
        return IdealSource(config)
    simulator = Simulator(config.run, Store(Path(store) if store else None))
    cell = program(config, simulator)
    return (SolvedSource if config.run.fidelity == "solved" else SpiceSource)(config, cell, simulator)


def calibrating_source(source: CurrentSource, config: Config) -> CurrentSource:
    """Make the source of the same chip where it is calibrated; the source itself if that is where it is read."""
    calibrated = config.at_calibration
    if calibrated is config or not isinstance(source, SpiceSource | SolvedSource):
        return source
    return type(source)(calibrated, program(calibrated, source.simulator), source.simulator)


def transients_of(source: CurrentSource) -> SpiceSource:
    """Make the reference for a source: it has the same cells on the same arrays, and simulates reads as transients.

    Raises:
        ConfigError: the source has ideal cells, for which there is no circuit.
    """
    if not isinstance(source, SpiceSource | SolvedSource) or source.cell is None:
        raise ConfigError('run.fidelity = "ideal" has no circuit: choose "solved", "dc" or "tran"')
    if isinstance(source, SpiceSource) and source.config.run.fidelity == "tran":
        return source
    config = source.config.with_values({"run.fidelity": "tran"})
    return SpiceSource(config, source.cell, source.simulator)
