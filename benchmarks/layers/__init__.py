"""The benchmark of `linear`, the loss of the last layer: time and memory beside all logits, and up to 1e7 classes."""
