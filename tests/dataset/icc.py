"""Colour profiles written by hand, after ICC.1:2001-04."""

import struct

import numpy as np


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(space, tags, *, kind=b"mntr", pcs=b"XYZ "):
    tags = {b"desc": b"desc" + struct.pack(">II", 0, 2) + b"x\0" + bytes(78), b"cprt": b"text\0\0\0\0\0"} | tags
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I", start + len(body)) + bytes(4) + b"\x02\x40\0\0" + kind + space + pcs + bytes(12) + b"acsp"
    return (head + bytes(28) + fixed(0.9642, 1, 0.8249)).ljust(128, b"\0") + table + body


def curve(gamma):
    return b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))


def point(*xyz):
    return b"XYZ \0\0\0\0" + fixed(*xyz)


WHITE = point(0.9642, 1, 0.8249)


def rgb(gamma, red, green, blue):
    """Primaries as XYZ, adapted to D50."""
    primaries = {b"rXYZ": point(*red), b"gXYZ": point(*green), b"bXYZ": point(*blue)}
    return profile(b"RGB ", {b"wtpt": WHITE, **primaries, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma))})


def grey(gamma):
    return profile(b"GRAY", {b"wtpt": WHITE, b"kTRC": curve(gamma)})


def cmyk(grid=5):
    """A press that prints nothing seen before: Lab by a table."""
    axis = np.linspace(0, 1, grid)
    c, m, y, k = np.meshgrid(axis, axis, axis, axis, indexing="ij")
    light = 255 * (1 - k) * (1 - (c + m + y) / 4)
    lab = np.stack([light, 128 + 50 * (m - c) * (1 - k), 128 + 50 * (y - c) * (1 - k)], axis=-1)
    ramp = bytes(range(256))
    head = b"mft1" + bytes(4) + bytes([4, 3, grid, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = head + ramp * 4 + lab.round().astype(np.uint8).tobytes() + ramp * 3
    return profile(b"CMYK", {b"wtpt": WHITE, b"A2B0": table}, kind=b"prtr", pcs=b"Lab ")


ADOBE_RGB = rgb(2.19921875, (0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
DISPLAY_P3 = rgb(2.2, (0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
