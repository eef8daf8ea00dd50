# Everything a newcomer types; each target does its own set-up in $(VENV).
#   make quickstart                      train the tiny model with GRPO on two CPU cores and write a report
#   make test                            install what tests need and run them: test-light, then test-heavy
#   make test-aligner                    the same for the second engine, NeMo-Aligner, in an environment of its own
#   make test-vllm                       the same for sampling with vLLM, whose build for CPUs has its own environment
#   make test-all                        all of them, and the tests that are too long for every run; before a release
#   make install-harness                 lm-evaluation-harness, for exported models and benchmarks/evaluate.py
#   make lint                            what CI checks beside the tests
#   make gpu-bundle                      all that a GPU machine without a network lacks, in BUNDLE; docs/gpu_results.md
#   make gpu-visit                       benchmarks and tests of one GPU, in at most eight minutes, into RESULTS
# On a machine without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu saves two gigabytes of CUDA libraries.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
ALIGNER_VENV ?= .venv-aligner
VLLM_VENV ?= .venv-vllm
HARNESS_VENV ?= .venv-harness
TORCH_INDEX ?=
TORCH := torch==2.13.0
ARGS ?=
BUNDLE ?= runs/gpu_bundle
# A folder with finished wheels of Transformer Engine; empty takes the index's.
TE_WHEELS ?=
RESULTS ?= runs/gpu_visit
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
ALIGNER_PIP := $(ALIGNER_VENV)/bin/pip --disable-pip-version-check

# Tests that start no training and need nothing but Python. One thread a process: two run at a time.
LIGHT := not (multiprocess or slow or slurm or browser or gpu or vllm)
LONG := not long
WORKERS ?= 2
# pytest's exit code when ARGS choose no test of this kind.
NONE_IS_FINE := [ $$? = 5 ]
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: quickstart test test-light test-heavy test-aligner test-vllm test-all lint format install install-dev \
  install-aligner install-vllm install-harness \
  gpu-bundle gpu-visit clean

quickstart: install
	$(BIN)/python -m recipes.quickstart $(ARGS)

test: test-light test-heavy

test-light: install-dev
	$(PYTEST) --dist loadfile -m "$(LIGHT)" $(ARGS) || $(NONE_IS_FINE)

# Two folders at a time: while one waits for a cluster's clock or one rank for another, the other computes.
test-heavy: install-dev
	$(PYTEST) --dist loadgroup -m "not ($(LIGHT)) and not vllm and $(LONG)" $(ARGS) || $(NONE_IS_FINE)

# Its results are compared with the first engine's, which runs in the first environment.
test-aligner: install-dev install-aligner
	OMP_NUM_THREADS=1 MEDATRON_MEGATRON_PYTHON=$(abspath $(BIN))/python \
	  $(ALIGNER_VENV)/bin/python -m pytest -n $(WORKERS) --dist loadgroup tests/engines_nemo_aligner $(ARGS)

# Servers take both cores: one test at a time. Trainers of either engine sample with them.
test-vllm: install-dev install-aligner install-vllm
	OMP_NUM_THREADS=1 MEDATRON_VLLM_PYTHON=$(abspath $(VLLM_VENV)/bin)/python \
	  MEDATRON_ALIGNER_PYTHON=$(abspath $(ALIGNER_VENV)/bin)/python \
	  $(BIN)/python -m pytest -m "vllm and $(LONG)" tests/sampling tests/slurm $(ARGS)

# Those for a GPU run in small where there is none.
test-all:
	MEDATRON_GPU_TESTS_ON_CPU=1 $(MAKE) test test-aligner test-vllm LONG="(long or not long)"

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

gpu-bundle:
	$(PYTHON) requirements/gpu_bundle.py $(BUNDLE) $(if $(TE_WHEELS),--te-wheels $(TE_WHEELS)) $(ARGS)

# In an environment that is there already: a GPU's is seldom one that may be changed.
gpu-visit:
	PYTHON=$(PYTHON) bash benchmarks/gpu_visit.sh $(RESULTS) $(ARGS)

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.runtime
install-dev: $(VENV)/.dev
install-aligner: $(ALIGNER_VENV)/.aligner
install-vllm: $(VLLM_VENV)/.vllm
install-harness: $(HARNESS_VENV)/.harness

# torch comes first and alone: every later step is forbidden to bring another build of it.
$(VENV)/.runtime: requirements/runtime.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
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
	$(ALIGNER_PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(ALIGNER_PIP) install --quiet --no-deps -r requirements/nemo_aligner.txt
	$(ALIGNER_PIP) install --quiet --no-deps --no-build-isolation --editable .
	$(ALIGNER_VENV)/bin/python -m compileall -q -j 0 $(ALIGNER_VENV)/lib >/dev/null 2>&1 || true
	@touch $@

$(VLLM_VENV)/.vllm: requirements/vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip --disable-pip-version-check install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(VLLM_VENV)/bin/pip --disable-pip-version-check install --quiet --no-deps -r requirements/vllm.txt
	@touch $@

$(HARNESS_VENV)/.harness: requirements/harness.txt
	$(PYTHON) -m venv $(HARNESS_VENV)
	$(HARNESS_VENV)/bin/pip --disable-pip-version-check install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(HARNESS_VENV)/bin/pip --disable-pip-version-check install --quiet --no-deps -r requirements/harness.txt
	@touch $@

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
