"""How losses of any library compare with the test vectors, and trainers with the gradient of the whole batch."""
