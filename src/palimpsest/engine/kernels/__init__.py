"""Layers and losses written for speed and memory; each computes what its plain form computes."""
