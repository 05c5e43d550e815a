# Everything a person runs from a clone. `make` alone lists the targets.
# PYTHON=/path/to/python3.12 make test   chooses the Python; otherwise the first of these that is 3.11 or newer.

SHELL := /bin/sh
ifndef PYTHON
PYTHON := $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))) python3)
endif
UV ?= uv
BIN := .venv/bin
# A stamp knows its Python: another one makes `.venv` anew.
STAMPS := .venv/.installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
PYTEST_ARGS ?=
# A worker takes whole files, since tests of one share what they compile; in their order, which ends with quick ones.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test faults parity lint types notebook lock clean check-python

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMPS)-run ## animate three portraits with the embedded model, and say where the results are
	@JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(BIN)/python -m launch.demo

test: $(STAMPS)-dev ## run the unmarked tests on the CPU (PYTEST_ARGS="-k name" narrows them)
	@JAX_PLATFORMS=cpu $(BIN)/python -m pytest $(WORKERS) -m "not slow and not gpu and not parity" $(PYTEST_ARGS)

faults: $(STAMPS)-dev ## kill trainings at twenty random moments, and whatever else of training and data is slow to break
	@JAX_PLATFORMS=cpu $(BIN)/python -m pytest $(WORKERS) -m "slow and not gpu" tests/training tests/data $(PYTEST_ARGS)

parity: $(STAMPS)-parity ## compare every network with its PyTorch class (fetches PyTorch's CPU build)
	@JAX_PLATFORMS=cpu $(BIN)/python -m pytest $(WORKERS) --dist worksteal -m "parity and not slow" tests/parity $(PYTEST_ARGS)

lint: $(STAMPS)-dev ## ruff: rules and format
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "error: not formatted; run $(BIN)/ruff format ."; exit 1; }

types: $(STAMPS)-dev ## type check of the library
	@$(BIN)/mypy --no-error-summary

notebook: $(STAMPS)-dev ## execute the notebooks
	@JAX_PLATFORMS=cpu $(BIN)/python -m pytest --nbmake --nbmake-timeout=900 -p no:cacheprovider notebooks

lock: ## pin the dependencies of setup.py anew (needs uv and the package index)
	@UV="$(UV)" sh requirements/lock.sh

clean: ## remove the environment and all caches of this clone
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info build

# Three locks, each a part of the next: `run` for the demo, `dev` with what tests and checks need, `parity` with the oracles
# (and PyTorch, which no lock holds: requirements/torch.txt).
# A stamp is written after a complete installation, so a broken one is taken up again.
INSTALL_FILES := requirements/install.py requirements/build.txt setup.py pyproject.toml

$(STAMPS)-run: requirements/run.txt $(INSTALL_FILES) | check-python
	@$(PYTHON) requirements/install.py run
	@touch $@

$(STAMPS)-dev: requirements/dev.txt $(INSTALL_FILES) | check-python
	@$(PYTHON) requirements/install.py dev
	@touch $@ $(STAMPS)-run

$(STAMPS)-parity: requirements/parity.txt requirements/torch.txt $(INSTALL_FILES) | check-python
	@$(PYTHON) requirements/install.py parity
	@touch $@ $(STAMPS)-dev $(STAMPS)-run

# An environment whose Python was removed or moved is made anew, whatever the stamps say.
ifeq ($(realpath $(BIN)/python),)
.PHONY: $(STAMPS)-run $(STAMPS)-dev $(STAMPS)-parity
endif

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "error: Python 3.11 or newer is needed, and '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not there);" \
	"install one, or name one: make PYTHON=/path/to/python3.12 demo" >&2; exit 2; }
