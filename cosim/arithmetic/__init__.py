"""The integers that training, software and converters agree on: bit planes, chunks of a kernel, codes.

`patterns`: bits, pulses and what groups of inputs see of them; `placement`: what each cell of a layer conducts, and
how kernels are cut; `codes`: how wide a code is and what is rounded to one; `partial_sums`: whole layers of digitized
sums. All on plain arrays or tensors, so that training, software and converters call the same functions.
"""
