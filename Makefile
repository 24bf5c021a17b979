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

# A process for each core, of one thread: most tests are too small for two, and with one the figures of docs/parity.md do
# not depend on the number of cores. At most four processes: each comes to hold up to 3 GB.
# `make test WORKERS=0` runs in one process, as plain pytest does.
WORKERS ?= logical
PARALLEL := --numprocesses $(WORKERS) --maxprocesses 4 --dist worksteal

test: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

# The original projects, to compare with: they need an older torch, so they live in an environment of their own.
# protobuf is as old as descript-audiotools wants it, tensorboard the newest that takes such a one; beartype is
# imported by speechtokenizer, which does not ask for it.
NATIVE := torch==2.11.0 torchaudio==2.11.0 numpy==2.4.6 speechbrain==1.1.2 transformers==5.23.0 \
	scikit-learn==1.9.1 joblib==1.6.0 soundfile==0.14.0 einops==0.8.2 \
	encodec==0.1.1 descript-audio-codec==1.0.0 descript-audiotools==0.7.2 snac==1.2.1 speechtokenizer==1.0.1 \
	beartype==0.23.1 accelerate==1.15.0 lion-pytorch==0.2.5 protobuf==3.19.6 tensorboard==2.20.0

.venv-native/done: Makefile
	$(PYTHON) -m venv .venv-native
	.venv-native/bin/python -m pip install --quiet --disable-pip-version-check $(NATIVE)
	@touch $@

check-slow: check .venv-native/done
	$(BIN)/python -m pytest -m slow

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-native demo build dist
