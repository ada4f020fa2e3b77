"""Names of measures that other packages speak of; it imports nothing."""

RECOVERABLE = "robust.recoverable"
"""The measure of robust.json; all others are blocks and measures of eval.json."""
