"""Limits of memory that the engine keeps to and that a plan counts with; imports nothing."""

CHUNK_BYTES = {"cpu": 25 << 20, "cuda": 256 << 20}
"""Logits of a chunk, in the head's type. On a CPU this is nearly the largest piece of memory
(32 MiB) that the C library gives again without asking the system; with smaller ones the head is
read more often. A head that is trained makes its weight, and that weight's gradient, for every
chunk: it has the larger ones everywhere."""

BLOCK_BYTES = {"cpu": 3 << 20, "cuda": 128 << 20}
"""Logits of a block, in fp32."""

SHORT = 256
"""Rows of at most this many tokens keep attention's probabilities for the backward pass."""

PREFIX_BYTES = 2 << 30
"""Most memory that kept prefixes may take."""

LOCALIZE_TOKENS = 1024
"""Tokens of one batch of localization; the gradients do not depend on it."""

PASS_TOKENS = {"cpu": 64, "cuda": 2048}
"""Price of one more padded pass, in padding tokens. On a GPU it takes as long as many tokens."""

SMALL_TENSOR = 4096
"""AdamW in 8 bits keeps the moments of tensors with fewer numbers than this in fp32."""

BATCH_ROWS = 16
"""Rows that the subject reads together for reference states and for adversarial labels."""

GRAM_BYTES = 4 << 30
"""Products of modules' inputs, in float64, that are in memory together (`engine.shrink`)."""
