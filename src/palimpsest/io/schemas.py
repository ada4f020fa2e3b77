"""The columns of every parquet table, once: writers build by them, readers select their names.

The columns of ``rows.parquet`` follow from the measures.
"""

from __future__ import annotations

import pyarrow as pa

DATASET = pa.schema(
    [
        ("id", pa.string()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("source_row", pa.int64()),
        ("phrasing", pa.string()),
        ("key", pa.list_(pa.string())),
        ("key_from", pa.string()),
        ("harmful", pa.bool_()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.int64()),
        ("perturbed", pa.list_(pa.string())),
        ("paraphrased", pa.string()),
        ("paraphrase_of", pa.string()),
        ("question", pa.string()),
    ]
)
"""``resources/datasets/{dataset}/{part}.parquet``: a line per row."""

TOKENS = pa.schema(
    [
        ("id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("prompt_length", pa.int32()),
    ]
)
"""``resources/tokens/{base}/{dataset}/{part}.parquet``: the first ids are the prompt."""

WANTED = pa.schema(
    [
        *TOKENS,
        ("of", pa.string()),
        ("text", pa.string()),
    ]
)
"""``.../wanted/{dataset}/{part}.{kind}/wanted.parquet``: a wanted answer after the prompt of the
row whose id is ``of``, and its text."""

EXAMPLES = pa.schema(
    [
        *TOKENS,
        ("labels", pa.list_(pa.int32())),
        ("sign", pa.int8()),
    ]
)
"""``.../seed-{seed}/examples/{stream}.parquet``: rows, labels in place of responses."""

SOFT_EXAMPLES = pa.schema(
    [
        *EXAMPLES,
        ("soft_ids", pa.list_(pa.list_(pa.int32()))),
        ("soft_weights", pa.list_(pa.list_(pa.float32()))),
    ]
)
"""The same with weighted tokens for each target."""

GRADIENTS = pa.schema(
    [
        ("tensor", pa.string()),
        ("layer", pa.int64()),
        ("module", pa.string()),
        ("matrix", pa.string()),
        ("numel", pa.int64()),
        ("cosine", pa.float64()),
        ("magnitude", pa.float64()),
        ("retain_magnitude", pa.float64()),
    ]
)
"""``gradients.parquet``: a line per LoRA tensor; layer -1 is outside the blocks."""

REGION = pa.schema([*GRADIENTS, ("selected", pa.bool_())])
"""``region.parquet``: the same tensors, and whether the method may train them."""

LIKELIHOOD = pa.schema(
    [
        ("part", pa.string()),
        ("id", pa.string()),
        ("alternative", pa.int16()),
        ("position", pa.int32()),
        ("token", pa.int32()),
        ("logprob", pa.float32()),
        ("hit", pa.bool_()),
        ("mean", pa.float32()),
        ("sd", pa.float32()),
        ("eos", pa.bool_()),
    ]
)
"""``likelihood.parquet``: a line per target token.

``alternative`` is the place among the row's wrong answers, -1 for its own response, -2 for that in
other words (``paraphrased``). ``logprob`` is in nats; ``hit``: the model finds this token
likeliest; ``mean`` and ``sd`` of the log-probability under the model's own distribution; ``eos``:
it is the end-of-text token.
"""

ANSWERS = pa.schema(
    [
        ("part", pa.string()),
        ("id", pa.string()),
        ("answer", pa.string()),
        ("tokens", pa.int32()),
        ("stopped", pa.bool_()),
    ]
)
"""A line per free answer: its text, its length, whether end-of-text ended it."""

GENERATIONS = pa.schema(
    [
        *ANSWERS,
        ("before_tokens", pa.int32()),
        ("before_logprob", pa.float64()),
    ]
)
"""``generations.parquet``: also the log-probability (nats) that the subject gave them."""

JUDGED = pa.schema(
    [
        ("part", pa.string()),
        ("id", pa.string()),
        ("harmful", pa.bool_()),
        ("score", pa.float64()),
        ("said", pa.string()),
        ("reason", pa.string()),
    ]
)
"""``judged.parquet``: a line per judged answer."""

LM_EVAL = pa.schema(
    [
        ("task", pa.string()),
        ("id", pa.string()),
        ("answer", pa.int64()),
        ("logprobs", pa.list_(pa.float64())),
        ("hit", pa.bool_()),
    ]
)
"""``lm_eval.parquet``: a line per multiple-choice question, with its choices' log-probabilities."""

SWEEP = pa.schema(
    [
        ("scale", pa.float64()),
        ("part", pa.string()),
        ("n", pa.int64()),
        ("recall_rate", pa.float64()),
        ("accuracy", pa.float64()),
        ("probability", pa.float64()),
        ("perplexity", pa.float64()),
        ("rouge_l", pa.float64()),
        ("degenerate_rate", pa.float64()),
    ]
)
"""``sweep.parquet``: a line per scale of the task vector and part, means over the part's rows."""

ATTACKED = pa.schema(
    [
        ("part", pa.string()),
        ("id", pa.string()),
        ("setting", pa.string()),
        ("fold", pa.int8()),
        ("seed", pa.int64()),
        ("value", pa.float64()),
        ("text", pa.string()),
        ("degenerate", pa.bool_()),
    ]
)
"""``.../attacks/{attack}.parquet``: a line per row and setting, see `palimpsest.attacks.Outcome`.

``fold`` is the one that was measured; null where the attacker has no rows.
"""

CHOOSING = pa.schema(
    [
        ("scale", pa.float64()),
        ("part", pa.string()),
        ("id", pa.string()),
        ("group", pa.string()),
        ("recall", pa.float64()),
        ("degenerate", pa.float64()),
        ("accuracy", pa.float64()),
    ]
)
"""``.../tune/{trial}/rows.parquet``: a line per scale and row that chooses; 0 or 1 but for
``accuracy``, the share of tokens. Answers of `general` and tokens of the others are null."""

TRIALS = pa.schema(
    [
        ("trial", pa.string()),
        ("scale", pa.float64()),
        ("settings", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("forget", pa.float64()),
        ("retain", pa.float64()),
        ("general", pa.float64()),
        ("degenerate", pa.float64()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("feasible", pa.bool_()),
        ("front", pa.bool_()),
        ("chosen", pa.bool_()),
        ("seconds", pa.float64()),
        ("optimizer_rows", pa.int64()),
    ]
)
"""``.../tune/trials.parquet``: a line per trial and scale (docs/tuning.md); of a trial that was
stopped one line without values."""
