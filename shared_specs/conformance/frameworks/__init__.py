"""How each framework makes tensors, calls a loss and takes its gradient; only the one that a target needs is imported.

Each module has:

    DTYPES      the dtypes that it computes in
    MODES       "eager", and "compiled" where it has a compiler
    DEVICES     "cpu", and "cuda" where it can be asked for
    VERSIONS    the distributions whose versions a run records
    evaluate(call, inputs, dtype, mode, device) -> shared_specs.conformance.evaluate.Found
"""
