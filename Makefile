# make serve   sets everything up, trains the demo bundle if there is none, serves it
# make shop    the same with the shop on a real base, which takes longer (docs/measurements/demo-shop.md)
# make test    sets everything up, checks style and types, runs every test that takes seconds
# Ctrl-C or SIGTERM ends what a target started; every line below is one process, so the signal reaches it.

# Which Python; none: the first of 3.11, 3.12, 3.13 that is there.
PYTHON ?=
HOST ?= 127.0.0.1
PORT ?= 8000
DEMO := runs/demo
SHOP := runs/shop

.PHONY: setup serve shop demo test test-slow lint table shop-table

serve: setup $(DEMO)/bundle/bundle.json
	.venv/bin/gradientspace serve $(DEMO)/bundle --host $(HOST) --port $(PORT)

setup:
	@exec env PYTHON=$(PYTHON) requirements/install.sh

demo: setup $(DEMO)/bundle/bundle.json

$(DEMO)/rows.jsonl: | setup
	.venv/bin/python -m demo.rows --per-skill 400 --seed 0 --split train --output $@

# Rows for the router alone: labelled, and seen by no expert.
$(DEMO)/held_out.jsonl: | setup
	.venv/bin/python -m demo.rows --per-skill 1920 --seed 0 --split routing --output $@

$(DEMO)/bundle/bundle.json: | setup $(DEMO)/rows.jsonl $(DEMO)/held_out.jsonl
	.venv/bin/gradientspace train recipes/demo.yaml

shop: setup $(SHOP)/bundle/bundle.json
	.venv/bin/gradientspace serve $(SHOP)/bundle --host $(HOST) --port $(PORT)

$(SHOP)/rows.jsonl: | setup
	.venv/bin/python -m demo.shop --per-skill 48 --seed 0 --split train --output $@

$(SHOP)/held_out.jsonl: | setup
	.venv/bin/python -m demo.shop --per-skill 16 --seed 0 --split routing --output $@

$(SHOP)/bundle/bundle.json: | setup $(SHOP)/rows.jsonl $(SHOP)/held_out.jsonl
	.venv/bin/gradientspace train recipes/shop.yaml

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Style and types are checked by tests/test_style.py, beside the other tests.
test: setup
	.venv/bin/python -m pytest -m "not slow" -n 2 --no-loadscope-reorder

test-slow: setup
	.venv/bin/python -m pytest -m slow

# Accuracy per skill of the base, one LoRA, routed experts and experts by true skill (see README.md).
table: demo
	.venv/bin/python -m benchmarks.demo_skills $(DEMO) --demo tales

# The same of the shop.
shop-table: setup $(SHOP)/bundle/bundle.json
	.venv/bin/python -m benchmarks.demo_skills $(SHOP) --demo shop
