"""One small training step in a trainer each, with the trainer's native loss and with ours; see `means`."""
