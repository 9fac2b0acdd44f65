"""Starting, draining, ending."""
