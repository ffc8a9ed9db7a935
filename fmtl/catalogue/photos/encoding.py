"""Photos as text: base64 in every form in which it comes."""

import base64
import binascii
import re

_SPACE = re.compile(r"\s+")


def decoded(text: str) -> bytes | None:
    """The bytes of base64: with line breaks, as a data URI, for URLs, without padding; None of anything else."""
    text = _SPACE.sub("", text.partition(",")[2] if text.startswith("data:") else text)
    text = text.translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
