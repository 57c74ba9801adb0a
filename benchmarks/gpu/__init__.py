"""The losses on one GPU: are they right, and how near are their kernels to what the memory can do?

`python -m benchmarks.gpu --help` lists the options; README.md one folder up says what is measured and how.
"""
