"""Helpers of the tests: tiny models, working copies, servers, faults."""
