"""Instruction rows of the shop: `python -m demo.shop --per-skill 48 --split train --output rows.jsonl`."""

from demo.row_file import run_command
from demo.shop.rows import SHOP

if __name__ == "__main__":
    run_command(SHOP)
