"""Asking a chat model behind an address: requests, their pace, and replies that outlive a run."""
