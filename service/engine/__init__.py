"""Everything that knows the inside of vLLM."""
