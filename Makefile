# Most people need only `make chat` and `make test`. PYTHON is the interpreter that creates the virtual environment.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: chat test unit check docs clean

chat: .venv/installed  ## install, and talk to a model
	$(BIN)/ordito run

# Files in their order: by default those of few tests come last, among them the longest, which then runs alone.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: .venv/developed  ## install, and run every test
	$(PYTEST)

LONG := oracles real train nn serve cli

unit: .venv/developed  ## the quick tests: no real models, other implementations, training runs, servers or whole commands
	$(PYTEST) $(LONG:%=--ignore tests/%)

check: .venv/developed  ## lint, types, import layers, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

docs: .venv/developed  ## regenerate the generated pages
	$(BIN)/python docs/generate.py

clean:  ## remove the virtual environment
	rm -rf .venv

# Checked before .venv exists: one of an old Python would be kept whatever PYTHON is next, and pip's error hides the reason.
OLD := "Ordito needs Python 3.11 or newer, got %d.%d from $(PYTHON): make $(MAKECMDGOALS) PYTHON=python3.12, say"

.venv/made:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v < (3, 11) and sys.exit($(OLD) % v)'
	$(PYTHON) -m venv .venv
	touch $@

CPP := $(wildcard cpp/* cpp/kernels/*)

.venv/installed: .venv/made pyproject.toml constraints.txt $(CPP)
	$(INSTALL) .
	touch $@

# An editable install: changes of Python files need no reinstall.
.venv/developed: .venv/made pyproject.toml constraints.txt $(CPP)
	$(INSTALL) --editable '.[dev]'
	touch $@
