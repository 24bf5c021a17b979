# Two commands for a newcomer: `make demo` and `make check`. Nothing but Python and make is needed.
PYTHON ?= python3
BIN := .venv/bin
# Threads that wait without spinning: on a busy machine the tests are many times faster.
export OMP_WAIT_POLICY ?= PASSIVE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo check check-slow lint types test format clean

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) "torch==2.13.0"
	$(PIP) -e ".[demo]"
	@touch $@

.venv/dev: .venv/core
	$(PIP) -e ".[dev]" ./examples/plugin
	@touch $@

demo: .venv/core
	$(BIN)/audiotok demo --out demo

check: .venv/dev lint types test

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/dev
	$(BIN)/mypy

test: .venv/dev
	$(BIN)/python -m pytest

check-slow: check
	$(BIN)/python -m pytest -m slow

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo build dist
