"""Make a language model forget one body of knowledge, keep the rest, and measure both."""

__version__ = "0.2.0"
