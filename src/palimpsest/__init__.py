"""Palimpsest makes a language model forget one body of knowledge, keeps the rest, and proves both."""

__version__ = "0.1.0"
