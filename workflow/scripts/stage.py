"""Run one job of a stage: ``python workflow/scripts/stage.py STAGE --config JSON ...``."""

from palimpsest.errors import run_cli
from palimpsest.pipeline.program import run

if __name__ == "__main__":
    run_cli(run)
