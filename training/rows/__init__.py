"""Reading, rendering and splitting rows."""
