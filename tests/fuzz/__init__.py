"""Fuzzing: gives mutated inputs of every kind to public commands, and checks that each ends in a result or a message.

    python -m tests.fuzz records --inputs 10000 --seed 0 --scratch DIR

A kind of input is a module of `tests.fuzz.kinds`: its `KIND` makes valid inputs, damages them and gives them to cosim.
`tests.fuzz.frame` runs it in separate processes, with a limit of ten seconds for each input, in a folder that is
watched.
"""
