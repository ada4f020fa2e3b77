"""Unlearning as it is usually written: the same results as ours, at what that costs.

These are the shapes of the released programs (a second full model as the reference, full logits at
every position, padded rows, a pass for each term, loops over samples), written anew from their
descriptions and with corrected mathematics: `tests/unit/test_plain_forms.py` holds each of them
against ours. They are the opponents of ``make bench``, and nothing else uses them.
"""
