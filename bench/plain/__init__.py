"""Unlearning in the usual form: the same results as ours, at the usual cost.

These forms have the structure of the released programs (a second full model as the reference, full
logits at every position, padded rows, a pass for each term, loops over samples). They are written
from the descriptions, with corrected mathematics: `tests/unit/test_plain_forms.py` compares each of
them with ours. Only ``make bench`` uses them.
"""
