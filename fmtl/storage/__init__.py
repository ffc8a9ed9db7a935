"""What is written to disk: lasting files, tables of text, and caches that may be lost."""
