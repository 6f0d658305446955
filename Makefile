# Everything is installed into .venv, as the lock files say. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
FAULTS := tests/faults tests/test_checkpoints.py tests/tracking/test_replica.py tests/tracking/test_locks.py \
  tests/proposals/test_lease.py tests/cli/test_hostile.py tests/comparison/test_ranking.py

.DEFAULT_GOAL := help
.PHONY: help sweep ui report docs test test-all test-faults check bench bench-gpu format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

sweep: .venv/installed  ## search schedules on the digits; ARGS='optimizer=adam' overrides
	$(BIN)/python -m sweep $(ARGS)

ui: .venv/installed  ## browse what is recorded, in MLflow on 127.0.0.1
	$(BIN)/python -m sweep mode=ui $(ARGS)

report: .venv/installed  ## print the table of the latest search again
	$(BIN)/python -m sweep mode=report $(ARGS)

docs: .venv/installed-dev  ## draw the pictures of docs/; needs Chromium
	$(BIN)/python docs/schedules.py
	$(BIN)/python docs/gan.py
	$(BIN)/python docs/screenshots.py

test: .venv/installed-dev  ## run the tests that together cover the code (minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not long" $(ARGS)

test-all: .venv/installed-dev  ## run these and their further combinations
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-faults: .venv/installed-dev  ## kill, stop, starve and lock out searches hundreds of times (under an hour)
	SWEEP_FAULTS=long $(BIN)/python -m pytest $(FAULTS) --faults-table=faults.md $(ARGS)

check: .venv/installed-dev  ## lint and check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed  ## measure the speed claims on the CPU (under 20 minutes); ARGS='--only fused' chooses
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-gpu: .venv/installed  ## measure them on a CUDA GPU
	$(BIN)/python -m benchmarks.gpu $(ARGS)

format: .venv/installed-dev  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment; what is recorded stays
	rm -rf .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed; PYTHON=... names one"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python requirements.lock.txt pyproject.toml
	@echo "installing into .venv (about a minute) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.lock.txt
	@touch $@
