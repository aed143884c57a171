"""Deck -> bitline currents: the ngspice engine, its raw files, a pool of workers, a store of results and its index."""

from cosim.spice.index import IndexedDeck, read_keys
from cosim.spice.ngspice import Reading
from cosim.spice.simulator import Simulator, Usage, engine_of
from cosim.spice.store import Store, default_store, is_store

__all__ = [
    "IndexedDeck",
    "Reading",
    "Simulator",
    "Store",
    "Usage",
    "default_store",
    "engine_of",
    "is_store",
    "read_keys",
]
