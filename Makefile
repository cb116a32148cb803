PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2  # processes that share the tests

.PHONY: demo test lint fast clean

demo: $(READY)  ## the main job on embedded data: tables and figures in runs/quickstart
	$(BIN)/python run.py configs/quickstart.yaml --resume --jobs 2

test: lint  ## lint, types, layers and all tests
	$(BIN)/pytest -n $(WORKERS)

fast: $(READY)  ## the tests without the slow ones
	$(BIN)/pytest -n $(WORKERS) -m "not slow"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) runs
