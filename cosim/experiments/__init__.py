"""Many circuits on the same images (sweeps, searches, one effect at a time), one output value or one cell in detail."""
