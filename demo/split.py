"""The parts that rows are made for. What is asked in one of them stands in no other."""

from typing import Literal

Split = Literal["train", "heldout", "routing"]
"""What experts learn from; what they are tested on; what the router alone sees."""
