"""What many answers to one question give away: leak@k, and a bound for what was not drawn.

Source: leak@k of arXiv:2511.04934; bounds in place of shares: arXiv:2410.03523.
"""

from __future__ import annotations

import numpy as np


def leak_at(draws: int, leaks: int, k: int) -> float:
    """Probability that `k` of the `draws` answers, taken without putting back, hold a leak.

    1 - C(n - c, k) / C(n, k), as a sum of logarithms: no term overflows, and small ones stay exact.

    Args:
        draws: answers to one question, n.
        leaks: those of them that give its fact away, c.
        k: answers that an attacker reads.

    Raises:
        ValueError: there are not that many.
    """
    if not (0 <= leaks <= draws and 1 <= k <= draws):
        raise ValueError(f"{k} of {draws} answers, {leaks} with a leak: no such choice")
    if k > draws - leaks:
        return 1.0
    rest = np.arange(draws, draws - k, -1, dtype=float)
    return float(-np.expm1(np.log1p(-leaks / rest).sum()))


def leak_upper(draws: int, leaks: int, confidence: float) -> float:
    """Clopper and Pearson's (1934) upper bound of the probability that an answer leaks.

    Args:
        draws: answers to one question.
        leaks: those of them that give its fact away.
        confidence: level of the two-sided interval, in (0, 1).
    """
    from scipy.stats import binomtest

    interval = binomtest(leaks, draws).proportion_ci(confidence, method="exact")
    return float(interval.high)
