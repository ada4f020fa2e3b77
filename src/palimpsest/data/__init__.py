"""Data sets: raw files, adapters to one schema, facts, splits, and token tables."""
