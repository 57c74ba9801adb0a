"""Test vectors for cross-entropy losses: the case files, the oracle that fills them, and a loader."""
