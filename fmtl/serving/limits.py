"""How much a server takes at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of a request, and of all together.

    Attributes:
        photos: In one request.
        bytes: Of one request's body.
        pixels: Of one photo.
        waiting: Photos that wait or are computed.
    """

    photos: int = 64
    bytes: int = 64 << 20
    pixels: int = 50_000_000
    waiting: int = 256

    @property
    def held(self) -> int:
        """Bytes of bodies in memory."""
        return 4 * self.bytes


HOST, PORT = "127.0.0.1", 8000
BATCH_SIZE = 32
FOLLOW_SECONDS = 15.0
MOST_LABELS = 500  # per attribute in an answer
