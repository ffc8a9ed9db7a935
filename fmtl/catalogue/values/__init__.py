"""What the cells of a column hold: labels, sets of them, or something that is no attribute of a photo."""
