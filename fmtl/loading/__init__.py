"""What a network is fed: batches of images or features, and targets. torch begins here."""
