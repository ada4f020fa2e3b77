"""The training engine: one set of weights, one loop, for every method."""
