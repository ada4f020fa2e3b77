"""Commands of ``palimpsest``, a file each; heavy libraries are imported when a command runs."""
