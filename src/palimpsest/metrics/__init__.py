"""Measures of forgetting and of retention, computed on the CPU from the tables of `measure`.

Nothing here imports torch: changing a metric never needs a GPU. Every formula, its direction and
its source stand in ``docs/metrics.md``.
"""
