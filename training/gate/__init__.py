"""Which experts are served: decided by measured loss."""
