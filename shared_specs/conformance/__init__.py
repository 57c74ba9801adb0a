"""Runs the test vectors against any library's losses: each case is equal, differs, wrong or not offered."""
