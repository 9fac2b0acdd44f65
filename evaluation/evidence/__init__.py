"""The paper's other tables and figures, and ablations."""
