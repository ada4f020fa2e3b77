"""One module per stage of the workflow: plain functions from files to files."""
