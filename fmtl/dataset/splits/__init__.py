"""Which images are for training, which choose the best epoch, and which are kept for the end."""

SPLITS = ("train", "val", "test")
