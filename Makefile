# Two commands are all that most people need: `make chat` and `make test`.
# PYTHON chooses the interpreter that the virtual environment is made with.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: chat test unit check docs clean

chat: .venv/installed  ## install, and talk to a model
	$(BIN)/ordito run

test: .venv/developed  ## install, and run every test
	$(BIN)/python -m pytest -n 2 --dist loadfile

unit: .venv/developed  ## the tests that need no real model and no other implementation
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/oracles --ignore tests/real

check: .venv/developed  ## lint, types, import floors, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

docs: .venv/developed  ## write the generated pages again
	$(BIN)/python docs/generate.py

clean:  ## remove the virtual environment
	rm -rf .venv

# Asked first: an environment of an old Python would stay, whichever PYTHON is chosen next, and pip's words hide the reason.
OLD := "Ordito needs Python 3.11 or newer, got %d.%d from $(PYTHON): make $(MAKECMDGOALS) PYTHON=python3.12, say"

.venv/made:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v < (3, 11) and sys.exit($(OLD) % v)'
	$(PYTHON) -m venv .venv
	touch $@

CPP := $(wildcard cpp/* cpp/kernels/*)

.venv/installed: .venv/made pyproject.toml constraints.txt $(CPP)
	$(INSTALL) .
	touch $@

# An editable install, so that a changed file needs no new one.
.venv/developed: .venv/made pyproject.toml constraints.txt $(CPP)
	$(INSTALL) --editable '.[dev]'
	touch $@
