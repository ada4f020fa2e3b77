"""The stages of the pipeline, what each depends on, and what a plan says of them. No torch here."""
