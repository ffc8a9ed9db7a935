"""A table of predictions: of which photos, how it grows, and what it fills."""
