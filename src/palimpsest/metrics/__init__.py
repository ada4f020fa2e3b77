"""Measures of forgetting and keeping, computed on the CPU from tables that a model left behind.

Nothing here imports torch: changing a metric never needs a GPU. Every formula, its direction and
its source stand in ``docs/metrics.md``.
"""
