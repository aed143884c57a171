"""Fuzzing: mutated inputs of every kind, given to the public commands, and what must never come of them.

    python -m tests.fuzz records --inputs 10000 --seed 0 --scratch DIR

A kind of input is a module of `tests.fuzz.kinds`: its `KIND` makes valid inputs, damages them and hands them to cosim.
`tests.fuzz.frame` runs it, in processes of its own, with a limit of ten seconds an input, in a folder that is watched.
"""
