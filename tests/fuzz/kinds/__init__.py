"""The kinds of input. Each is a module with a `KIND`."""
