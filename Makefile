# make demo       set up everything and watch a detector learn with a ranking loss (CPU, minutes);
#                 make demo PROCESSES=2 trains on two processes
# make test       the test suite
# make test-slow  the tests that take minutes each
# make test-slurm real jobs on a Slurm of one node, which is installed from Debian's packages where that is allowed
# make lint       ruff and mypy           make format      let ruff format
# make setup      the environment alone   make clean       remove it and all results

BIN := .venv/bin
PROCESSES := 1

.PHONY: setup demo test test-slow test-slurm lint format clean

setup:
	@tools/setup_env.sh

demo: setup
	$(BIN)/python tools/demo.py --processes $(PROCESSES)

test: setup
	$(BIN)/python -m pytest -m 'not slow and not slurm' --cov=bucketed_losses --cov-report=term-missing:skip-covered

test-slow: setup
	$(BIN)/python -m pytest -m slow

test-slurm: setup
	@command -v slurmctld >/dev/null || [ -x /usr/sbin/slurmctld ] || \
		{ apt-get update -q && apt-get install -y -q --no-install-recommends slurm-wlm munge; } || \
		echo 'slurm-wlm and munge cannot be installed here; the tests below say what is missing' >&2
	$(BIN)/python -m pytest -m slurm

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv work_dirs data/shapes build dist *.egg-info .coverage
