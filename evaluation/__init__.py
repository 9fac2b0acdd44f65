"""How good is it: answers of adapters on held-out rows, with intervals."""
