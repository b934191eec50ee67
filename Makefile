# Every target sets up what it needs: a virtual environment in .venv with pinned packages.
# On a fresh machine: python3 (3.11 or later) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPU := JAX_PLATFORMS=cpu

.PHONY: setup demo test test-slow lint parity-full tagger-full bench clean

setup: $(VENV)/.test-installed

demo: $(VENV)/.installed
	$(BIN)/python -m tvt_jax.demo --output outputs/demo

test: $(VENV)/.test-installed
	$(CPU) $(BIN)/python -m pytest

test-slow: $(VENV)/.test-installed
	$(CPU) $(BIN)/python -m pytest -m slow

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Full-width networks with random weights in PyTorch and here: minutes and about 12 GB of memory.
parity-full: $(VENV)/.test-installed
	$(CPU) $(BIN)/python -m tests.parity_full

# The tagger likewise, from files of the release's size: 6 GB of disk and memory.
tagger-full: $(VENV)/.test-installed
	$(CPU) $(BIN)/python -m tests.tagger_full

bench: $(VENV)/.installed
	$(BIN)/python -m tvt_jax.bench complexity

clean:
	rm -rf $(VENV) outputs

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.test-installed: requirements-test.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@
