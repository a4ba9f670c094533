# Two commands: `make demo` and `make test`. Everything else is a part of them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test lint types unit bench docs clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,examples]'
	touch $(READY)

demo: setup
	$(BIN)/paring optimize examples/digits.py --out out/demo --fresh --time-limit 4m --max-drop 0.02

test: setup lint types unit

lint: setup
	$(BIN)/ruff check src tests examples benchmarks docs
	$(BIN)/ruff format --check src tests examples benchmarks docs

types: setup
	$(BIN)/mypy

# A file stays together for its fixtures.
unit: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

bench: setup
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[peers]'
	$(BIN)/python benchmarks/certificate.py
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/measurement.py
	$(BIN)/python benchmarks/cifar10_resnet20.py

docs: setup
	$(BIN)/python docs/reference.py

clean:
	rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
