"""A run: its inputs, its stages, its processes."""
