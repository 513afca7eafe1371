# Each target sets up .venv by itself. PYTHON names the interpreter to build it with.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test lint format setup clean bench-all
.DEFAULT_GOAL := help

help:
	@echo "make demo     set up, then shift report, three ways of fine-tuning, evaluation on the built-in sample"
	@echo "make test     set up, then every test"
	@echo "make lint     ruff and mypy"
	@echo "make bench-X  run benchmarks/X.py: $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/common.py,$(wildcard benchmarks/*.py)))"

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[offline,export,tune,dev]"
	@touch $@

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/nlp-transfer demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-%: $(STAMP)
	$(BIN)/python benchmarks/$*.py

clean:
	rm -rf $(VENV) .venvs runs
