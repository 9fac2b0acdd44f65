"""A bundle from adapters that are there already."""
