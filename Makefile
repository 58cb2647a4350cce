# Two commands that need only Python, git and make:  make demo  and  make test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BROWSER := $(VENV)/.browser

.PHONY: demo test quick lint types unit slow gpu bench identity bounds lock audit docs clean

# Environment and install; done again when the requirements change.
# Every package by version and hash, as requirements.lock has them.
$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
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
	$(BIN)/mypy dimo_cli benchmarks

unit: $(STAMP)
	$(BIN)/pytest

# Under a minute: what can be said at once, and the tests of what differs from main.
quick: lint types
	$(BIN)/python -m tests.quick

# A browser and what drives it; where they cannot be had, the tests that need them say so.
$(BROWSER): $(STAMP)
	-$(BIN)/python -m pip install --quiet --editable ".[browser,play]" \
		&& $(BIN)/python -m playwright install chromium
	@touch $@

# The checks that take minutes each: full distillations against the bars, torch.compile, browsers.
slow: $(STAMP) $(BROWSER)
	$(BIN)/pytest -m slow -rs

# Needs a CUDA device: tests and benchmarks in at most eight minutes, one table, a folder of JSON.
OUT ?= benchmarks/results/gpu
gpu: $(STAMP)
	$(BIN)/python -m benchmarks gpu --out $(OUT)

bench: $(STAMP)
	$(BIN)/python -m benchmarks.startup --json benchmarks/results/startup.json
	for name in step loss sample eval scale; do \
		$(BIN)/python -m benchmarks $$name --json benchmarks/results/$$name.json || exit 1; \
	done

# Whether a change leaves every number as it was:  make identity AGAINST=../before
identity: $(STAMP)
	$(BIN)/python -m benchmarks.identity $(if $(AGAINST),--against "$(AGAINST)")

# The generated pages and pictures of docs/, with what the presets cost counted anew.
docs: $(STAMP)
	$(BIN)/python -m docs --costs

# The tests with the lowest versions that pyproject.toml allows, in an environment of 7 GB.
bounds:
	$(PYTHON) -m venv .lowest
	$(PYTHON) tests/bounds/lowest.py > .lowest/lowest.txt
	.lowest/bin/python -m pip install --quiet --constraint .lowest/lowest.txt --editable ".[dev]"
	.lowest/bin/pytest

# What CI and the demo install, for every system: the newest versions that pyproject.toml allows, with their hashes.
lock: $(STAMP)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --python-version 3.11 \
		--custom-compile-command "make lock" --quiet --upgrade --output-file requirements.lock

# Whether advisories are known against what is locked, or against the lowest versions; it asks PyPI.
audit: $(STAMP)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock
	$(BIN)/python tests/bounds/lowest.py > .lowest.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement .lowest.txt

clean:
	rm -rf $(VENV) .lowest .lowest.txt build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
