# make demo       set up everything and watch a detector learn with a ranking loss (CPU, minutes);
#                 make demo PROCESSES=2 trains on two processes
# make test       the test suite, on two processes; make test WORKERS=8 on more
# make test-fast  its short part: the core, and the losses and heads on tiny inputs; under 90 seconds on two cores
# make test-stack the tests that every stack passes: the core, a step of each detector, the tools
# make docs       the documentation site, in docs/_build/html; make linkcheck also requests every external link
# make tutorials  execute the notebooks in docs/tutorials and store their outputs; NAME=calibrate for one of them
# make test-slow  the tests that take minutes each
# make gpu        tests and measures the losses on a GPU, and trains detectors if MMDetection is there; nothing is downloaded
# make test-slurm real jobs on a Slurm of one node, which is installed from Debian's packages where that is allowed
# make lint       ruff, mypy, codespell     make format      let ruff format
# make release VERSION=0.2.0  build, check and try a release; PREPARE=1 sets the version, TAG=1 tags (docs/contributing.md)
# make setup      the environment alone; make setup SETUP_GROUPS='run test' with more of its packages
#                                         make clean       remove all environments and results
#
# Options:
#   STACK=openmmlab    another environment (requirements/stacks.ini); the default is current
#   PYTHON=python3.12  another interpreter; the default is the first one in the stack's list that is installed, and for
#                      make gpu that of the environment, if there is one
#   PINS='mmengine==0.10.4'  versions of single packages to use instead of the pinned ones
#   ARGS=tests/cli     further arguments of pytest for make test-stack
#   RECORD=FILE.json   where make test and make test-stack write their counts, for tools/benchmarks/report_compatibility.py

STACK := current
VENV := $(if $(filter current,$(STACK)),.venv,.venv-$(STACK))
BIN := $(VENV)/bin
PROCESSES := 1
SETUP_GROUPS := run
WORKERS := 2
SITE := docs/_build/html
# Images of containers often set this variable. Packages are compiled at their first import here, so each of the hundreds
# of processes of the tests would compile all of MMDetection (docs/faq.md has the times).
unexport PYTHONDONTWRITEBYTECODE
SETUP := @tools/setup_env.sh --stack $(STACK) --groups
# The words and phrases on the left side of the arrows in docs/vocabulary.txt, as a regular expression.
PHRASES = $(shell sed 's/->.*//' docs/vocabulary.txt | paste -sd '|')
# A test that hangs fails after 15 minutes and shows where it was. Files are run in the order of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	--timeout 900 --durations 25 $(if $(RECORD),--record=$(RECORD))

.PHONY: setup demo docs tutorials linkcheck test test-fast test-stack test-slow test-slurm gpu lint format release clean

setup:
	$(SETUP) $(SETUP_GROUPS)

demo: setup
	@$(BIN)/python -m bucketed_losses demo --processes $(PROCESSES)

docs:
	$(SETUP) run test docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs $(SITE)
	@echo 'The site is in $(SITE)'

tutorials:
	$(SETUP) run test docs
	$(BIN)/python tools/run_tutorials.py $(NAME)

linkcheck:
	$(SETUP) run test docs
	$(BIN)/python -m sphinx -W --keep-going -b linkcheck docs docs/_build/linkcheck

test:
	$(SETUP) run test docs release
	$(PYTEST) -m 'not slow and not slurm' --cov=bucketed_losses --cov-report=term-missing:skip-covered

test-fast:
	$(SETUP) run test
	$(PYTEST) -m 'not medium and not slow and not gpu' tests/core tests/plugin/models

test-stack:
	$(SETUP) run test
	$(PYTEST) -m 'stack and not slow' $(ARGS)

test-slow:
	$(SETUP) run test docs
	$(BIN)/python -m pytest -m slow

gpu:
	$(or $(PYTHON),$(wildcard $(BIN)/python),python3) tools/gpu/check.py --out work_dirs/gpu

test-slurm:
	$(SETUP) run test
	@command -v slurmctld >/dev/null || [ -x /usr/sbin/slurmctld ] || \
		{ apt-get update -q && apt-get install -y -q --no-install-recommends slurm-wlm munge; } || \
		echo 'slurm-wlm and munge cannot be installed here; the tests below say what is missing' >&2
	$(BIN)/python -m pytest -m slurm

lint:
	$(SETUP) run test lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files -co --exclude-standard | xargs $(BIN)/codespell
	git ls-files -co --exclude-standard | xargs $(BIN)/codespell -D docs/vocabulary.txt --regex '(?i)$(PHRASES)'

format:
	$(SETUP) lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

release:
	$(SETUP) run test docs release
	@$(BIN)/python tools/release.py $(or $(VERSION),$(error say which version: make release VERSION=0.2.0)) \
		$(if $(PREPARE),--prepare) $(if $(TAG),--tag)

clean:
	rm -rf .venv .venv-* work_dirs data/shapes docs/_build build dist *.egg-info .coverage
