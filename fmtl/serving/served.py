"""The model that is served, and the one that takes its place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from fmtl.catalogue.photos.folder import ImageError
from fmtl.catalogue.reasons import Reason
from fmtl.dataset.pixels import images
from fmtl.model.labeller import OK, Labeller

# From a stored square to how much each place of it speaks for what is said, (h, w) float32 in [0, 1], by task slug.
Look = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Served:
    """A model with its name.

    Attributes:
        name: As it was asked for.
        version: Of the registered model.
        digest: sha256 of all that it is.
        data: Digest of the dataset that it was trained on; empty where that is not known.
        look: Where the network looks, if it can tell.
    """

    labeller: Labeller
    name: str
    digest: str
    version: str | None = None
    data: str = ""
    look: Look | None = field(default=None, repr=False)

    def decode(self, content: bytes | ImageError, most_pixels: int) -> tuple[str, np.ndarray | None]:
        """What became of a photo, and its square ``(S, S, 3)`` uint8 where it became one."""
        if isinstance(content, ImageError):
            return str(content.reason), None
        try:
            if (size := images.size(content)) and size[0] * size[1] > most_pixels:
                return str(Reason.TOO_LARGE), None
            return OK, self.labeller.decode(content)
        except ImageError as error:
            return str(error.reason), None
