#!/usr/bin/env bash
# Snakemake runs this in the new environment: the programs of the rules import the library.
set -euo pipefail
python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --editable "${PALIMPSEST_HOME:?the Snakefile sets it}"
