"""What is of one backend, in a file of its own: kernels, and what only that backend can tell of a tensor."""
