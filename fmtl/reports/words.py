"""Names that fit."""

MAX_LABEL_CHARS, KEPT_END = 28, 9


def one_line(text: str) -> str:
    return " ".join(text.split())


def shortened(text: str, most: int = MAX_LABEL_CHARS) -> str:
    """A long name without its middle, since names that begin alike differ at the end."""
    return text if len(text) <= most else f"{text[: most - KEPT_END - 1].rstrip()}…{text[-KEPT_END:].lstrip()}"
