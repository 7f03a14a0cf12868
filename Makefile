# make demo | test | lint | docs | bench: each needs only Python >= 3.11, git and make; .venv is made on first use.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
MINIMUM := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	"$$name" -c '$(MINIMUM)' 2>/dev/null && echo "$$name" && break; done)
# Tests run side by side, one per core.
PYTEST_FLAGS ?= -n auto --dist worksteal

.PHONY: help demo test lint docs bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    AutoML on new tables, then new classes of images; under six minutes"
	@echo "make test    import floors and all tests"
	@echo "make lint    formatting, lint, types, import floors"
	@echo "make docs    the documentation, into site/; warnings are errors"
	@echo "make bench   speed against other libraries"
	@echo "make clean   remove .venv and everything built"

demo: $(VENV)/installed-demo
	$(BIN)/tasklore demo

test: $(VENV)/installed-dev
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(VENV)/installed-dev
	$(BIN)/mkdocs build --strict

bench: $(VENV)/installed-bench
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .import_linter_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 was found (python3 is: $$(python3 --version 2>&1)); \
	install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c '$(MINIMUM)' || { echo "error: $(PYTHON) is $$("$(PYTHON)" --version 2>&1), Tasklore needs \
	Python >= 3.11; name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# One stamp for each extra; torch first, alone and at its pinned version, so that a build already at hand is taken.
$(VENV)/installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV); the first time takes a few minutes"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(shell grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[$*]'
	@touch $@
