# make sweep   sets everything up and runs the built-in quickstart study
# make test    sets everything up and runs the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: sweep test test-all quick lint check bench-gpu clean
sweep: $(READY)
	$(BIN)/sesr-lab sweep

# One thread for each of two processes: the tests' networks are too small to share.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not long"

# Those too that take minutes each: a team's whole deployment, every kill with two trials side by side.
test-all: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

quick: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: test lint

# Ten minutes on a GPU; without one: make bench-gpu GPU="--device cpu --quick". Any Python with torch and numpy will do.
bench-gpu:
	for python in $(BIN)/python $(PYTHON); do \
	    $$python -c 'import numpy, torch' 2>/dev/null && exec $$python benchmarks/gpu.py $(GPU); \
	done; $(MAKE) $(READY) && exec $(BIN)/python benchmarks/gpu.py $(GPU)

# A build of torch that pip finds at hand (see pip's find-links) is taken first; else the registry's.
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sesr-lab needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
