"""The routes that are ours: one file each."""
