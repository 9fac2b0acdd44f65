"""Table 1's methods, one file each, behind one protocol."""
