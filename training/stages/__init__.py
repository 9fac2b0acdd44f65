"""What a run is made of: its inputs, its stages and what they left, its processes."""
