"""A training on what a notebook brings."""
