"""Rows and photos to a verified folder: the prepared dataset. No torch."""
