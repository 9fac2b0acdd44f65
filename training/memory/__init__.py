"""What a run will take, and what it decides under a budget."""
