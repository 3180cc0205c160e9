# make demo       set up everything and watch a detector learn with a ranking loss (CPU, minutes);
#                 make demo PROCESSES=2 trains on two processes
# make test       the test suite, on two processes; make test WORKERS=8 on more
# make docs       the documentation site, in docs/_build/html; make linkcheck also asks for every external link
# make test-slow  the tests that take minutes each
# make test-slurm real jobs on a Slurm of one node, which is installed from Debian's packages where that is allowed
# make lint       ruff and mypy           make format      let ruff format
# make setup      the environment alone   make clean       remove it and all results

BIN := .venv/bin
PROCESSES := 1
WORKERS := 2
SITE := docs/_build/html

.PHONY: setup demo docs linkcheck test test-slow test-slurm lint format clean

setup:
	@tools/setup_env.sh

demo: setup
	$(BIN)/python tools/demo.py --processes $(PROCESSES)

docs: setup
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs $(SITE)
	@echo 'The site is in $(SITE)'

linkcheck: setup
	$(BIN)/python -m sphinx -W --keep-going -b linkcheck docs docs/_build/linkcheck

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow and not slurm' -n $(WORKERS) --dist loadfile --cov=bucketed_losses --cov-report=term-missing:skip-covered

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
	rm -rf .venv work_dirs data/shapes docs/_build build dist *.egg-info .coverage
