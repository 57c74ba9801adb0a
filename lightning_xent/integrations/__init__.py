"""The losses in the training loops of other libraries, one module per library. Import the module that you need."""
