"""The bytes of a table to its text, and what was guessed on the way."""

import codecs
import re

from fmtl.catalogue.notes import Note, warning
from fmtl.errors import DataError

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_OTHERS = ("cp1252", "cp1250", "cp1251", "gb18030", "shift_jis", "mac-roman")  # shown where none can be guessed
_C1 = re.compile(rb"[\x80-\x9f]")  # control characters in latin-1, letters and typographic signs in cp1252
_STRANGE = re.compile(r"[^\W\d_][¹²³ªº¿¡£¥¼½¾¯][^\W\d_]|(?=.*ý)(?=.*[èìùø])")  # Polish, Czech in another code page
_TURKISH, _ICELANDIC = re.compile("[ýþðÝÞÐ]"), re.compile("[æáéíóúÆÁÉÍÓÚ]")  # letters that stand in the same places
_WORD = re.compile(r"[^\W\d_]+")
_SHOWN = 60  # characters of a line, around what was guessed


def decode(content: bytes, encoding: str | None, *, where: str) -> tuple[str, str, list[Note]]:
    """Text of a table, the encoding it was read in, and what was guessed.

    What has no mark and is not UTF-8 is guessed where that is safe: UTF-16 by its zero bytes, a Western European
    code page by words that are mostly plain letters.

    Raises:
        DataError: The encoding is unknown or does not fit, or none can be guessed; with line and byte.
    """
    marked = _MARKS.get(mark_of(content))
    chosen = encoding or marked or "utf-8"
    try:
        return content.decode(chosen).removeprefix("\ufeff"), chosen, []
    except LookupError as error:
        raise DataError(f"encoding: '{encoding}' is not known; expected a name such as utf-8 or cp1252") from error
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = content.count(b"\n", 0, at) + 1
        found = None if encoding or marked else _guess(content)
        if found:
            text = content.decode(found)
            told = f"the table is not UTF-8; read as with --encoding {found}, so that line {line} says "
            return text, found, [warning(told + repr(_around(content, at, found)))]
        told = (
            f"line {line}, byte {at}: not {encoding or (marked or 'utf-8').removesuffix('-sig')} "
            f"({getattr(error, 'reason', error)})"
        )
        raise DataError(f"{told}; {_advice(content, at)}", where=where) from error


def mark_of(content: bytes) -> bytes:
    """The mark of an encoding that content begins with, if any."""
    return next((mark for mark in _MARKS if content.startswith(mark)), b"")


def without_mark(content: bytes) -> str | None:
    """UTF-16 that does not say so: every second byte of plain text is zero."""
    head = content[:10_000]
    if mark_of(content) or len(head) < 2 or head.count(0) < len(head) / 3:
        return None
    return "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"


def _guess(content: bytes) -> str | None:
    """``cp1252`` or ``latin-1`` where the text is probably Western European, and not damaged UTF-8, else None."""
    as_utf8 = content.decode("utf-8", "replace")
    damaged = as_utf8.count("\ufffd")
    if sum(not c.isascii() for c in as_utf8) > 2 * damaged or as_utf8.rstrip().endswith("\ufffd"):
        return None
    try:
        text = content.decode("cp1252")
    except UnicodeError:  # five bytes mean nothing in it
        return None
    if sum(c < " " and c not in "\t\r\n\f\v" for c in text) > len(text) / 1000:
        return None
    if _STRANGE.search(text) or (_TURKISH.search(text) and not _ICELANDIC.search(text)):
        return None
    accented = [word for word in _WORD.findall(text) if not word.isascii()]
    strange = sum(not c.isascii() for word in accented for c in word)
    if strange > 0.5 * sum(map(len, accented)):  # as words of another alphabet become
        return None
    return "cp1252" if _C1.search(content) else "latin-1"


def _around(content: bytes, at: int, encoding: str) -> str:
    line = content[content.rfind(b"\n", 0, at) + 1 :].split(b"\n", 1)[0]
    offset = at - content.rfind(b"\n", 0, at) - 1
    text, before = line.decode(encoding, "replace").rstrip("\r"), len(line[:offset].decode(encoding, "replace"))
    return text[max(0, before - _SHOWN // 2) : before + _SHOWN // 2]


def _advice(content: bytes, at: int) -> str:
    readings = []
    for name in _OTHERS:
        try:
            content.decode(name)
        except UnicodeError:
            continue
        readings.append(f"--encoding {name} reads {_around(content, at, name)!r}")
    told = "save the table as UTF-8, or name its encoding"
    return f"{told}: {'; '.join(readings[:4])}" if readings else f"{told}, such as --encoding cp1252"
