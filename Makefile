# make demo       set up everything and watch a detector learn with a ranking loss (CPU, minutes);
#                 make demo PROCESSES=2 trains on two processes
# make test       the test suite
# make test-slow  the tests that take minutes each
# make lint       ruff and mypy           make format      let ruff format
# make setup      the environment alone   make clean       remove it and all results

BIN := .venv/bin
PROCESSES := 1

.PHONY: setup demo test test-slow lint format clean

setup:
	@tools/setup_env.sh

demo: setup
	$(BIN)/python tools/demo.py --processes $(PROCESSES)

test: setup
	$(BIN)/python -m pytest -m 'not slow' --cov=bucketed_losses --cov-report=term-missing:skip-covered

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv work_dirs data/shapes build dist *.egg-info .coverage
