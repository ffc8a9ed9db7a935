"""Bytes changed at random."""

import numpy as np


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to five changes: a bit flipped, bytes zeroed, drawn, taken out or doubled, or the end cut off."""
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at, size = int(rng.integers(max(1, len(found)))), int(rng.integers(1, 40))
        kind = rng.integers(6)
        if kind == 0:
            found[at : at + 1] = bytes([byte ^ 1 << int(rng.integers(8)) for byte in found[at : at + 1]])
        elif kind == 1:
            found[at : at + size] = bytes(len(found[at : at + size]))
        elif kind == 2:
            found[at : at + size] = rng.bytes(size)
        elif kind == 3:
            del found[at : at + size]
        elif kind == 4:
            found[at:at] = found[at : at + size]
        else:
            found = found[: max(at, 8)]
    return bytes(found)


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """One bit turned over."""
    found = bytearray(content)
    found[int(rng.integers(len(found)))] ^= 1 << int(rng.integers(8))
    return bytes(found)
