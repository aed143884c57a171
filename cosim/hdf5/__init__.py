"""HDF5 files: written with a seal, and read in a separate process.

A file that cosim writes begins with a user block of 512 bytes, which HDF5 skips: a line with the BLAKE2b digest of
everything behind it. Whatever damages the file is found before the HDF5 library looks at it.

A seal does not tell who wrote a file, and the library crashes or hangs on some files. Every file is therefore read by
`reader.py`, a program of its own with limits of time and memory, which follows no link, refuses what claims more data
than the file can hold, and hands over plain arrays. cosim's own process never opens a file with the library.
"""

from cosim.hdf5.apart import read_file
from cosim.hdf5.group import Group, Quantity
from cosim.hdf5.sealed import write_file

__all__ = ["Group", "Quantity", "read_file", "write_file"]
