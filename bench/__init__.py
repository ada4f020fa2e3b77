"""Programs that measure speed and memory compared with plain forms of the same work."""
