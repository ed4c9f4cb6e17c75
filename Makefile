# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer: the first call makes .venv.
VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH ?= torch==2.13.0
READY := $(VENV)/.ready

# Two pytest workers with one thread each: more threads than cores slow every test down.
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

.PHONY: demo test test-slow lint install clean

demo: $(READY)
	$(VENV)/bin/bitwright demo

test: $(READY)
	$(PYTEST) -m "not slow"

# pytest exits with 5 when no test carries the mark; that is no failure.
test-slow: $(READY)
	$(PYTEST) -m slow || [ $$? -eq 5 ]

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

install: $(READY)

# torch comes first and alone, so that nothing below replaces the build that was chosen.
$(READY): pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "Bitwright needs Python 3.11 or newer on the PATH (or: make PYTHON=/path/to/python)" >&2; exit 1; }
	@[ -x $(VENV)/bin/pip ] || $(PYTHON) -m venv $(VENV) || { \
		echo "cannot make a virtual environment (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(VENV)/bin/pip install --quiet $(TORCH)
	$(VENV)/bin/pip install --quiet -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
