"""Programs that measure speed and memory beside plain forms of the same work."""
