"""The exact gradient of every row (section 5.3)."""
