"""The losses beside every peer: the same value and gradient, then speed and memory of loss + gradient.

`python -m benchmarks --help` lists the options; README.md in this folder says what is measured and how.
"""
