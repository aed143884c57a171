"""Many circuits on the same images (sweeps, effects one at a time), one output value taken apart, one cell measured."""
