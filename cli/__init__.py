"""One command, `gradientspace`. Sub-commands import what they need only when they run."""
