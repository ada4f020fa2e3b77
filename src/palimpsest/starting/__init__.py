"""``palimpsest init``: from a model and two files of rows to one file of settings."""
