"""The integers that training, software and converters agree on: bit planes, chunks of a kernel, codes."""
