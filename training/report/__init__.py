"""The page that says whether to trust the clusters."""
