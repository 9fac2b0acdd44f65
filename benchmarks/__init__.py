"""Measured comparisons: each prints a table and, with --json FILE, the figures behind it."""
