"""The leaderboard: every method tuned alike, on the embedded subjects (``make leaderboard``)."""
