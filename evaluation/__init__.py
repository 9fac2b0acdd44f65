"""How good is it: answers of adapters on held-out rows, with intervals.

seed          what all methods of one seed stand on: rows, clusters, experts, scores
methods       Table 1's methods, one file each, behind one protocol
answers       what adapters write, checked exactly
table_one     the comparison: methods and seeds, learning rates, contamination, the table
evidence      the paper's other tables and figures, ablations, rows of a known conflict

`served` scores a running service over HTTP, whoever's it is.
"""
