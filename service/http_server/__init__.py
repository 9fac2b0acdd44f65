"""HTTP itself: a port, and what comes in on its connections, up to a request that can be read."""
