"""Formulas of TOFU's released code (locuslab/tofu), restated in our own words for comparisons."""

from __future__ import annotations

import torch
from torch import Tensor


def joined_idk(refusals: Tensor, retain: Tensor) -> Tensor:
    """Loss of IDK: one mean over the tokens of both kinds of rows, which stand in one batch.

    Args:
        refusals: cost of each token of the refusals, [tokens].
        retain: the same of the retain rows.
    """
    return torch.cat([refusals, retain]).mean()
