"""The name under which all rooms are installed, and that `python -m gradientspace` runs."""
