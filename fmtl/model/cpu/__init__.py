"""What torch does on CPUs, done otherwise: faster, or without a fault."""
