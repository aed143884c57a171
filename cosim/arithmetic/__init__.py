"""Integer arithmetic that training, software and converters share.

- `patterns`: bits and pulses of activations, and the patterns that groups of inputs see.
- `placement`: what each cell of a layer conducts, and how kernels are cut into chunks.
- `codes`: how wide a code is, and how sums are rounded to codes.
- `partial_sums`: whole layers of digitized sums.

The functions work on plain arrays or tensors, so that training, software and converters can all call them.
"""
