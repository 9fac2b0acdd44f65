"""The paper's Table 1: methods compared on the same rows."""
