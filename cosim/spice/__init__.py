"""Simulates decks: runs ngspice on a pool of workers, reads its raw files, and keeps results in a store."""

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
