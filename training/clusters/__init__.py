"""From gradients to clusters (section 5.3)."""
