# make run    the embedded default, from a fresh clone to results/report.html
# make test   everything that CI checks
# make chaos  kills, cuts and deletes during the embedded chain; it must end as if nothing happened
# make results  the tables of docs/results.md, from the published KnowUnDo privacy set and TruthfulQA
# make bench  speed beside plain forms of the same work: docs/performance.md (25 minutes, 2 cores)
# make slurm  adds what runs the stages as SLURM jobs (docs/cluster.md)
# make lint   formatters, linters and the type checker alone
# make clean  removes what was computed (downloads stay); make distclean also .venv and downloads
.DEFAULT_GOAL := help
.PHONY: help run test chaos results bench slurm lint lock clean distclean
SHELL := bash
PYTHON ?= python3.11
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1

help:
	@sed -n 's/^# //p' Makefile

# The environment is made once, and again only when its pins change.
.venv/.installed: envs/requirements.lock pyproject.toml
	@command -v $(PYTHON) > /dev/null || { \
		echo "error: $(PYTHON) is needed; name another one with: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "error: $(PYTHON) is not Python 3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

run: .venv/.installed
	snakemake --cores all
	@echo "report: results/report.html"

# Methods of the tables: those that each overlay shows for its subject.
KNOWUNDO := results/smollm2-135m-knowundo
METHODS := original gradient_ascent ga_gd ga_kl memflex memflex-all memflex-random memflex-unit
HAZARDS := results/smollm2-135m
BEFORE_AND_AFTER := base original finetune gradient_ascent llmu task_vector sku sku-anchored
results: .venv/.installed
	@test -e resources/knowundo-privacy/unlearn_train.json -a -e resources/TruthfulQA.csv || { \
		echo "error: put the four json files of KnowUnDo's privacy set into" \
			"resources/knowundo-privacy, and TruthfulQA.csv into resources (docs/results.md)"; exit 1; }
	snakemake $(METHODS:%=$(KNOWUNDO)/%/eval.json) --configfile config/results/knowundo.yaml --cores all
	python workflow/scripts/results_table.py --table knowundo --results $(KNOWUNDO) \
		--page docs/results.md --configfile config/results/knowundo.yaml
	snakemake $(BEFORE_AND_AFTER:%=$(HAZARDS)/%/eval.json) --configfile config/results/truthfulqa.yaml \
		--cores all
	python workflow/scripts/results_table.py --table truthfulqa --results $(HAZARDS) \
		--page docs/results.md --configfile config/results/truthfulqa.yaml

test: lint
	python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# CHAOS names the subject (of the embedded hazards); PALIMPSEST_CHAOS_SEED draws other moments.
CHAOS ?= smollm2-135m
chaos: .venv/.installed
	PALIMPSEST_CHAOS=$(CHAOS) python -m pytest -s tests/workflow/test_chaos.py -k embedded

# BENCH is passed on, e.g. make bench BENCH="--pieces sku-k5 rmu --pairs 3".
bench: .venv/.installed
	snakemake resources/models/smollm2-135m/manifest.json --cores all
	python -m bench.speed $(BENCH)

slurm: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/slurm.lock

lint: .venv/.installed
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint
	python -m palimpsest.config.docs --check
	python -m palimpsest.metrics.docs --check

lock: .venv/.installed
	@(sed -n '/^#/p' envs/requirements.lock; \
		python -m pip freeze --exclude-editable | \
		sed 's/+cpu$$//; s/ @ .*//; /^snakemake-executor-plugin-slurm/d') > .lock.tmp
	mv .lock.tmp envs/requirements.lock

clean:
	rm -rf results logs benchmarks .snakemake

distclean: clean
	rm -rf .venv resources/models resources/datasets resources/tokens resources/hub resources/downloads
