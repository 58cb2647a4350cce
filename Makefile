# Two commands that need only Python, git and make:  make demo  and  make test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types unit slow gpu bench clean

# Environment and install; done again when the requirements change.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

# A one-step generator in minutes: distill, draw a grid, print the table.
demo: $(STAMP)
	$(BIN)/dimo distill --preset digits
	$(BIN)/dimo sample --student "$$(ls -td runs/digits* | head -1)" -n 40 --grid demo.png

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy dimo_cli

unit: $(STAMP)
	$(BIN)/pytest

# The checks that take minutes each: full distillations against the bars, torch.compile.
slow: $(STAMP)
	$(BIN)/pytest -m slow

# Needs a CUDA device.
gpu: $(STAMP)
	$(BIN)/pytest -m gpu

bench: $(STAMP)
	$(BIN)/python -m benchmarks.startup --json benchmarks/results/startup.json

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
