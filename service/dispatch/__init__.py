"""From a decided request to the engine and back."""
