# Two commands matter: `make quickstart` and `make test`. `make help` lists the others.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The tests compare with torch, which nothing else needs.
TEST_STAMP := $(VENV)/.installed-tests
# The first that runs and is new enough (a name alone may be a version manager's empty shim), else what there is.
NEW_ENOUGH := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
  $$p -c '$(NEW_ENOUGH)' 2>/dev/null && command -v $$p && exit; done; command -v python3)
# The TPU compiler, for programs that are compiled without a TPU. Not among the packages: JAX would look for chips.
LIBTPU := $(VENV)/share/libtpu
LIBTPU_VERSION := libtpu==0.0.42.1
ARGS ?=
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help quickstart test aot lint doctor install install-tests clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo
	@echo '  make quickstart ARGS="--help"   every knob of the quickstart'

quickstart: $(STAMP)  ## install, then train, evaluate and report medvista-tiny (pass options with ARGS="…")
	@$(BIN)/python experiments/quickstart.py $(ARGS)

test: $(TEST_STAMP)  ## all tests, on JOBS processes
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(ARGS)

aot: $(TEST_STAMP)  ## compile the 8B programs for TPUs that are not here (pass options with ARGS="…")
	@TPU_LIBRARY_PATH=$(CURDIR)/$(LIBTPU)/libtpu/libtpu.so $(BIN)/python -m medvista_jax.runtime.aot $(ARGS)

lint: $(TEST_STAMP)  ## ruff
	@$(BIN)/ruff check .

doctor: $(STAMP)  ## versions, devices, and what is missing with its remedy
	@$(BIN)/python -m medvista_jax doctor

install: $(STAMP)  ## only the virtual environment

install-tests: $(TEST_STAMP)  ## the same and what the tests need

clean:  ## remove the virtual environment and the caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist *.egg-info

# The stamp is newer than the two files that decide what is installed, so a second call installs nothing.
$(STAMP): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "No python3 found. Install Python 3.11 (Debian: apt install python3.11 python3.11-venv)." >&2; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { \
	  echo "$(PYTHON) is `$(PYTHON) --version 2>&1`; Python 3.11 or 3.12 is needed. Name one: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	  rm -rf $(VENV); echo "Cannot create $(VENV). On Debian: apt install python3.11-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) (once; a few minutes) …"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable .
	@touch $(STAMP)

$(TEST_STAMP): $(STAMP)
	@echo "Installing what the tests need (once) …"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --target $(LIBTPU) --upgrade $(LIBTPU_VERSION) \
	  || echo "No TPU compiler for this kind of machine: the tests that compile for TPUs are skipped."
	@touch $(TEST_STAMP)
