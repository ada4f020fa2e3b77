# make run      the embedded default, from a fresh clone to results/report.html
# make test     everything that CI checks
# make chaos    kills, cuts and deletes during the embedded chain; the result must not change
# make results  the tables of docs/results.md, from KnowUnDo's privacy set and TruthfulQA
# make tofu     the table of TOFU in docs/results.md: make tofu TOFU=folder with its files
# make leaderboard  tunes every method alike and keeps each line in docs/leaderboard.csv (many hours)
# make bench    compares speed with plain code: docs/performance.md (25 minutes, 2 cores)
# make slurm    installs what runs the stages as SLURM jobs (docs/cluster.md)
# make quantize installs what 8-bit optimisers and quantised bases need (config/README.md)
# make docs     the documentation as a site, site/index.html
# make lint     formatters, linters and the type checker alone
# make lock     writes the installed versions to envs/requirements.lock and envs/palimpsest.yaml
# make clean    removes what was computed; downloads stay
# make distclean  the same, and removes .venv and the downloads
.DEFAULT_GOAL := help
.PHONY: help run test chaos results tofu leaderboard bench slurm quantize docs lint lock clean distclean
SHELL := bash
# The first that is here; the pins are tested with 3.11.
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(if $(shell command -v python$(v)),python$(v))) python3.11)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1

help:
	@sed -n 's/^# make/make/p' Makefile

# The environment is made once, and updated when its pins change.
.venv/.installed: envs/requirements.lock pyproject.toml
	@command -v $(PYTHON) > /dev/null || { \
		echo "error: $(PYTHON) is needed; name another one with: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the packages of envs/requirements.lock into .venv (2 GB, some minutes)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(BIN)/python -m palimpsest.snakemake_command
	touch $@

run: .venv/.installed
	snakemake --cores all
	@echo "report: results/report.html"

# Each overlay names its subject and the methods of its table under `all_methods`.
results: .venv/.installed
	@test -e resources/knowundo-privacy/unlearn_train.json -a -e resources/TruthfulQA.csv || { \
		echo "error: put the four json files of KnowUnDo's privacy set into" \
			"resources/knowundo-privacy, and TruthfulQA.csv into resources (docs/results.md)"; exit 1; }
	snakemake all_methods --configfile config/results/knowundo.yaml --cores all
	python workflow/scripts/results_table.py --table knowundo \
		--results results/smollm2-135m-knowundo \
		--page docs/results.md --configfile config/results/knowundo.yaml
	snakemake all_methods --configfile config/results/truthfulqa.yaml --cores all
	python workflow/scripts/results_table.py --table truthfulqa --results results/smollm2-135m \
		--page docs/results.md --configfile config/results/truthfulqa.yaml

# The files are linked, not copied; a folder that is there stays.
tofu: .venv/.installed
	@test -e resources/tofu || { test -e "$(TOFU)/full.json" && ln -s "$(abspath $(TOFU))" resources/tofu; } || { \
		echo "error: name the folder with full.json and the *_perturbed.json files of locuslab/TOFU:" \
			"make tofu TOFU=path"; exit 1; }
	snakemake all_methods results/smollm2-135m-tofu/{retrained,ga_gd,npo-gd,simnpo,idk_dpo,undial,sku-anchored}/robust.json \
		--configfile config/results/tofu.yaml --cores all
	python workflow/scripts/results_table.py --table tofu --results results/smollm2-135m-tofu \
		--page docs/results.md --configfile config/results/tofu.yaml

# LEADERBOARD is passed to the program, e.g. make leaderboard LEADERBOARD="--limit-hours 2".
leaderboard: .venv/.installed
	python workflow/scripts/leaderboard.py $(LEADERBOARD)

test: lint
	python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# CHAOS names the subject (one with the embedded hazards). PALIMPSEST_CHAOS_SEED seeds the moments of
# the faults.
CHAOS ?= smollm2-135m
chaos: .venv/.installed
	PALIMPSEST_CHAOS=$(CHAOS) python -m pytest -s tests/workflow/test_chaos.py -k embedded

# BENCH is passed to the program, e.g. make bench BENCH="--pieces sku-k5 rmu --pairs 3".
bench: .venv/.installed
	snakemake resources/models/smollm2-135m/manifest.json --cores all
	python -m bench.speed $(BENCH)

slurm: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/slurm.lock

quantize: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/quantize.lock

# In a folder of its own: no run and no other test needs it.
.venv/docs/.installed: envs/docs.lock .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps \
		--target .venv/docs -r envs/docs.lock
	touch $@

docs: .venv/docs/.installed
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=.venv/docs python -m mkdocs build --strict --quiet
	@echo "documentation: site/index.html"

lint: .venv/.installed
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint
	python -m palimpsest.docs --check

lock: .venv/.installed
	@(sed -n '/^#/p' envs/requirements.lock; \
		python -m pip freeze --exclude-editable | \
		sed 's/+cpu$$//; s/ @ .*//; /^snakemake-executor-plugin-slurm/d; /^bitsandbytes/d') > .lock.tmp
	mv .lock.tmp envs/requirements.lock
	python -m palimpsest.docs

clean:
	rm -rf results logs benchmarks site .snakemake

distclean: clean
	rm -rf .venv resources/models resources/datasets resources/tokens resources/judges resources/hub resources/downloads
