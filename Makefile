# All that a machine needs is a Python >= 3.10: `make demo PYTHON=python3.12` picks one.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALL := -e '.[dev]' -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint chaos clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## create .venv and install everything into it (once)

# The stamp is written last, so an interrupted installation is simply done again.
$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "A Python >= 3.10 is needed, but '$(PYTHON)' was not found; install one or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python must be >= 3.10, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1); name a newer one: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Installing into $(VENV). On Linux the default build of torch brings CUDA and is several GB (about 6 GB on disk)."
	@echo "For the small CPU build stop this (Ctrl-C) and run: make setup UV_TORCH_BACKEND=cpu"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { echo "A virtual environment could not be created; on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv && $(BIN)/uv pip install --python $(BIN)/python $(INSTALL) \
		|| { echo "uv did not manage the installation; trying plain pip, which takes a few minutes"; $(BIN)/python -m pip install $(INSTALL); }
	@touch $@

demo: $(INSTALLED)  ## search on handwritten digits, about 2 minutes on 2 cores
	$(BIN)/evo search configs/demo_digits.yaml --run-dir runs/demo-$$(date +%Y%m%d-%H%M%S)
	@echo "these commands live in $(VENV); once per shell: source $(BIN)/activate"

test: $(INSTALLED)  ## run the default tests (no GPU, no network, no downloads)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

chaos: $(INSTALLED)  ## kill searches at random moments and resume them (minutes)
	$(BIN)/python -m pytest -m chaos

clean:  ## remove .venv, caches and build output; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
