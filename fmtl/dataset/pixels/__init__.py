"""One photo to a square of pixels."""
