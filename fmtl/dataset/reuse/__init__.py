"""What was decoded before, or elsewhere, and need not be decoded again."""
