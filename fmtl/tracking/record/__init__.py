"""What a run is, on this machine's disk: the truth that is delivered to a store."""
