"""Which run is the best, and which model an address names."""
