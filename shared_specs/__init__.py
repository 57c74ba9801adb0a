"""Test vectors for cross-entropy losses: the case files, the oracle that fills them, and a loader.

.. PYTEST_DONT_REWRITE: else pytest, which finds our plugin, warns where this package is imported before it starts.
"""
