"""From a photo to what a network takes, as a record: what prediction must repeat to see what training saw."""

from dataclasses import asdict, dataclass

from fmtl.errors import DataError
from fmtl.storage.records import checked

MOST_PX, FITS = 8192, ("pad", "crop", "stretch")
_FIELDS = {
    "stored_px": int, "fit": str, "background": str, "px": int, "mean": list | tuple, "std": list | tuple,
}  # fmt: skip


@dataclass(frozen=True)
class Preprocess:
    """All that prediction must repeat to see what training saw.

    Attributes:
        stored_px: Side of the square that an image file is decoded to.
        fit: How it is made square; see ``images.decode``.
        background: Fill colour.
        px: Side of the network's input.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel, of pixels in [0, 1].
        profiles: Whether photos of another colour profile than sRGB are converted; they were not for older models.
    """

    stored_px: int
    fit: str
    background: str
    px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    profiles: bool = False

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, item: object) -> "Preprocess":
        """Raises DataError where it is not what ``to_json`` made."""
        found = checked(item, _FIELDS, optional={"profiles": bool}, where="preprocess")
        for name in ("mean", "std"):
            if len(found[name]) != 3 or not all(isinstance(value, int | float) for value in found[name]):
                raise DataError(f"'{name}': expected three numbers", where="preprocess")
        if not (1 <= found["px"] <= MOST_PX and 1 <= found["stored_px"] <= MOST_PX) or found["fit"] not in FITS:
            raise DataError(f"expected sides from 1 to {MOST_PX} and one of {', '.join(FITS)}", where="preprocess")
        return cls(**{**found, "mean": tuple(found["mean"]), "std": tuple(found["std"])})
