"""Palimpsest makes a language model forget one body of knowledge, keep the rest, and prove both."""

__version__ = "0.1.0"
