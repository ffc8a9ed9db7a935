"""What is said of a catalogue on the way to a dataset."""

from dataclasses import dataclass

_WARNING = "warning: "  # in front of a warning, in manifests and on terminals


@dataclass(frozen=True)
class Note:
    """A sentence for the user; a warning where something is probably not as they want it."""

    text: str
    is_warning: bool = False

    def __str__(self) -> str:
        return f"{_WARNING}{self.text}" if self.is_warning else self.text

    @classmethod
    def from_text(cls, text: str) -> "Note":
        """The note that ``str`` of it gave: manifests keep notes as text."""
        return cls(text.removeprefix(_WARNING), text.startswith(_WARNING))


def warning(text: str) -> Note:
    return Note(text, is_warning=True)
