"""One network, one loss spec, two frameworks: trained in Keras and in Lightning, epoch by epoch the same loss.

`python -m demo --help` lists the options; README.md in this folder says what a run does.
"""
