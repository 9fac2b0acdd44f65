"""One bundle after another, without a failed request."""
