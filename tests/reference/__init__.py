"""Plain restatements of losses, for equality tests only. Nothing in `src` imports them."""
