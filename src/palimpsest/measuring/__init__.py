"""Measurements of a loaded model: likelihoods of rows, and free answers."""
