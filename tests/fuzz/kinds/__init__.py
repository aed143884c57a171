"""The kinds of input, one a module, each with its `KIND`."""
