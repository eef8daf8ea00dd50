# Everything a newcomer types; each target does its own set-up in $(VENV).
#   make quickstart                      train the tiny model with GRPO on two CPU cores and write a report
#   make test                            install what tests need and run them
#   make lint                            what CI checks beside the tests
# On a machine without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu saves two gigabytes of CUDA libraries.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check

.PHONY: quickstart test lint format install install-dev clean

quickstart: install
	$(BIN)/python -m recipes.quickstart $(ARGS)

test: install-dev
	$(BIN)/python -m pytest $(ARGS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.runtime
install-dev: $(VENV)/.dev

# torch comes first and alone: every later step is forbidden to bring another build of it.
$(VENV)/.runtime: requirements/runtime.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(PIP) install --quiet --no-deps -r requirements/runtime.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	$(PIP) install --quiet --no-deps -r requirements/dev.txt
	@touch $@

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
