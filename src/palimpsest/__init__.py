"""Make a language model forget one body of knowledge, keep the rest, and measure both."""

import os

__version__ = "0.1.0"

# Large tensors in huge pages: fewer page faults, and less memory lost between tensors. PyTorch
# reads it once, at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
