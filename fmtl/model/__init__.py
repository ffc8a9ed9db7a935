"""The network: backbone, heads, weights, how it runs on this machine, and its use on photos."""
