"""How losses of other libraries, and trainers, compare with the vectors and with the gradient of the whole batch."""
