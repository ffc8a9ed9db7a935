"""Every reason for which a row is left out, and what it means."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a row is left out: one word for counting, and its meaning for people."""

    meaning: str

    def __new__(cls, word: str, meaning: str) -> "Reason":
        reason = str.__new__(cls, word)
        reason._value_ = word
        reason.meaning = meaning
        return reason

    NOT_TAKEN = "not_taken", "left out by --limit"
    MISSING = "missing", "the photo is not in the image folder"
    BLANK_ROW = "blank_row", "every cell of the row is blank"
    BLANK_IMAGE = "blank_image", "the row names no photo"
    BLANK_ID = "blank_id", "the row has no id"
    NO_LABEL = "no_label", "every label is blank"
    SHORT_ROW = "short_row", "the line has fewer fields than the header"
    EXTRA_FIELDS = "extra_fields", "the line has more fields than the header"
    NUL_BYTE = "nul_byte", "the line is damaged"
    HEADER_AGAIN = "header_again", "the line repeats the header"
    NOT_JSON = "not_json", "the line is no JSON object"
    DUPLICATE_ROW = "duplicate_row", "the same product and photo as an earlier line"
    CONFLICTING_ROWS = "conflicting_rows", "one product and photo, with contradicting labels"
    SEVERAL_FIT = "several_fit", "several photos of the folder could be meant"
    URL = "url", "the photo is at an address; fmtl fetch downloads it"
    OUTSIDE_ROOT = "outside_root", "the path leads out of the image folder"
    NOT_REGULAR_FILE = "not_regular_file", "the path is a folder or a device"
    UNREADABLE = "unreadable", "the file can't be opened"
    CHANGED = "changed", "the file changed while it was read"
    CHECKSUM = "checksum", "the file is not the one that the table means"
    EMPTY = "empty", "the file has 0 bytes"
    NOT_AN_IMAGE = "not_an_image", "the file is no photo"
    FORMAT = "format", "a file format that is not read"
    TOO_LARGE = "too_large", "more bytes, pixels or passes over them than are decoded"
    DEGENERATE = "degenerate", "too small or too narrow to see anything"
    TRUNCATED = "truncated", "the file is cut short"
    DAMAGED = "damaged", "the file is damaged"
    DECODER_CRASH = "decoder_crash", "the decoder crashed on this file"


def meaning(word: str) -> str:
    """Of a reason in a file; empty where a later version wrote it."""
    return next((reason.meaning for reason in Reason if reason == word), "")
