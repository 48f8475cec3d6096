# Every target sets up what it needs: a fresh clone and a Python 3.10 or newer are enough.
PYTHON ?= python3
BIN := .venv/bin
# one worker per core, each with one thread of torch
WORKERS := --numprocesses auto --dist worksteal

.PHONY: train test test-all test-lowest lint docs figures clean help
help:
	@echo "make train     train and judge a perceptual metric on the packaged photographs (no account, no hub)"
	@echo "make test      lint, type check and tests"
	@echo "make test-all  the same, with the slow tests"
	@echo "make test-lowest  the tests with the oldest versions that setup.cfg allows, in .venv-lowest"
	@echo "make docs      the documentation, in build/site"
	@echo "make figures   every picture and table of the documentation again: takes days, continues where it stopped"
	@echo "make clean     remove .venv and the caches of the tools"

train: .venv/installed
	$(BIN)/python train.py

test: lint
	$(BIN)/python -m pytest -m "not slow" $(WORKERS)

test-all: lint
	$(BIN)/python -m pytest $(WORKERS)

# warnings of old versions are no faults of ours
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest -m "not slow" -W default $(WORKERS)

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

figures: .venv/installed-dev
	$(BIN)/python -m benchmarks.figures

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ .venv/installed

.venv/installed-docs: .venv/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@ .venv/installed

.venv-lowest/installed: setup.cfg pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .venv-lowest build *.egg-info .mypy_cache .ruff_cache .pytest_cache
