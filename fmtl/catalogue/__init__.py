"""A product table as it was found to clean rows and rejects. No torch."""
