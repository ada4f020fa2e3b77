"""Settings that configuration and library share: checked values and the keys of trained stages."""
