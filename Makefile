# Everything a newcomer types; each target does its own set-up in $(VENV).
#   make quickstart                      train the tiny model with GRPO on two CPU cores and write a report
#   make test                            install what tests need and run them
#   make test-aligner                    the same for the second engine, NeMo-Aligner, in an environment of its own
#   make lint                            what CI checks beside the tests
# On a machine without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu saves two gigabytes of CUDA libraries.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
ALIGNER_VENV ?= .venv-aligner
TORCH_INDEX ?=
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
ALIGNER_PIP := $(ALIGNER_VENV)/bin/pip --disable-pip-version-check

.PHONY: quickstart test test-aligner lint format install install-dev install-aligner clean

quickstart: install
	$(BIN)/python -m recipes.quickstart $(ARGS)

test: install-dev
	$(BIN)/python -m pytest $(ARGS)

# Its results are compared with the first engine's, which runs in the first environment.
test-aligner: install-dev install-aligner
	MEDATRON_MEGATRON_PYTHON=$(abspath $(BIN))/python $(ALIGNER_VENV)/bin/python -m pytest tests/engines_nemo_aligner $(ARGS)

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
install-aligner: $(ALIGNER_VENV)/.aligner

# torch comes first and alone: every later step is forbidden to bring another build of it.
$(VENV)/.runtime: requirements/runtime.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(PIP) install --quiet --no-deps -r requirements/runtime.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt requirements/frameworks.txt
	$(PIP) install --quiet --no-deps -r requirements/dev.txt
	rm -rf $(VENV)/frameworks
	$(PIP) install --quiet --no-deps --target $(VENV)/frameworks -r requirements/frameworks.txt
	@touch $@

# NeMo takes seconds to import, and half a minute where nothing was compiled. Some packages hold templates of files,
# which do not compile.
$(ALIGNER_VENV)/.aligner: requirements/nemo_aligner.txt pyproject.toml
	$(PYTHON) -m venv $(ALIGNER_VENV)
	$(ALIGNER_PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(ALIGNER_PIP) install --quiet --no-deps -r requirements/nemo_aligner.txt
	$(ALIGNER_PIP) install --quiet --no-deps --no-build-isolation --editable .
	$(ALIGNER_VENV)/bin/python -m compileall -q -j 0 $(ALIGNER_VENV)/lib >/dev/null 2>&1 || true
	@touch $@

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
