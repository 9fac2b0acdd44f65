"""Whether a model's per-row gradients are exact."""
