"""Settings of an adversary within training (latent adversarial training)."""

from __future__ import annotations

from palimpsest.settings.types import Count, Index, Positive, Section


class Adversary(Section):
    """In each step it moves the inner states of the forget rows so that these are known again."""

    block: Index
    """Block whose output it moves (0-based), at every token of the forget rows."""
    radius: Positive = 2.0
    """Largest norm of what it adds to a token."""
    steps: Count = 16
    """Its steps of AdamW, which lower the cost of the forget rows."""
    learning_rate: Positive = 5e-2
    """Rate of these steps."""
    updates: Count = 4
    """Steps of the optimiser on the same rows, against the same adversary."""
