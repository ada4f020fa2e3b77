"""Models on disk and in memory: bases, subjects, adapters, unlearned models."""
