"""The losses in the training loops of other libraries, a module each; none is imported before it is asked for."""
