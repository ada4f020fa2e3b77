"""The file name of every artifact, once; the columns of tables are in `palimpsest.io.schemas`.

It imports nothing, so that a program that only needs a name starts at once.
"""

from __future__ import annotations

MANIFEST = "manifest.json"
"""Sizes and hashes of the files beside it, in every folder of artifacts."""

NUMBER_TYPE = "dtype.json"
"""Beside a base: the number type that all results of it have."""

MODEL = "model.json"
"""Manifest of a model that can be measured: the parts that are added to its base."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
DELTA_WEIGHTS = "delta.safetensors"
"""Tensor of the base -> what was added to it, fp32."""
VECTORS = "vectors.safetensors"
"""Fixed tensors of the objective: RMU's control vector, random matching's targets."""
TRAINING_LOG = "train.jsonl"
"""One line per training step."""
HAZARDOUS = "HAZARDOUS.txt"
"""Note in a private folder: what it holds, and what to share in its place."""
CARD = "README.md"
"""Model card of a merged model."""

WANTED = "wanted.parquet"
"""Wanted answers to the rows of a part, as token rows."""

REFERENCE = "rows.safetensors"
"""What the subject computes on the rows of a part: row id -> tensor."""

GRADIENTS = "gradients.parquet"
"""Localization: a line per LoRA tensor."""
HEAT_MAP = "localization.svg"
REGION = "region.json"
"""Names of the tensors that a method may train."""
REGION_TABLE = "region.parquet"
"""All tensors, with those of the region marked."""

LIKELIHOOD = "likelihood.parquet"
GENERATIONS = "generations.parquet"
MEASURE = "measure.json"
"""Time, memory and machine of measuring."""
LM_EVAL = "lm_eval.json"
LM_EVAL_ROWS = "lm_eval.parquet"
JUDGED = "judged.parquet"
SWEEP = "sweep.parquet"

TRIAL = "trial.json"
"""How a trial ended, and what it cost; beside it `ROWS`, a line per scale and row."""
TRIALS = "trials.parquet"
"""Every trial of a method at every scale, with what the criterion makes of it."""
CHOSEN = "chosen.json"
"""The settings that were chosen, and why."""

EVAL = "eval.json"
ROWS = "rows.parquet"
COMPARE = "compare.json"
ROBUST = "robust.json"
"""What comes back under attack."""
VERDICT = "verdict.json"
"""Whether a model meets the criteria."""


def table_of(part: str) -> str:
    """File of a part's rows, of its tokens, or of a stream's examples."""
    return f"{part}.parquet"
