"""Where the training of an epoch stands between two steps, so that another process can go on from there."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fmtl.errors import DataError
from fmtl.together import collectives


class Position:
    """Where the training of an epoch stands: after how many batches, and what they have added up to.

    It is true whenever a step was taken, and until the epoch's validation is over.

    Attributes:
        epoch: From 1; 0 before the first.
        num_batches: Whose step is over.
        num_images: Of the steps that were taken.
        loss_sum: Of their mean losses, each times its images; on the device.
        num_skipped: Steps that were not taken; none of their images is counted.
        in_a_row: Of those, since the last one that was taken.
        settle: Called before ``state_dict``: until then the verdict on the last step may be open.
    """

    def __init__(self, device: torch.device):
        self.in_a_row, self.device = 0, device
        self.settle: Callable[[], object] = lambda: None
        self._saved: Mapping[str, Any] | None = None
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self.epoch, self.num_batches, self.num_images, self.num_skipped = epoch, 0, 0, 0
        self.loss_sum = torch.zeros((), device=self.device)
        self._seconds, self._started = 0.0, time.monotonic()

    def begin(self, epoch: int, seed: int) -> None:
        """Enter an epoch: at its beginning, or where an earlier process left it."""
        self._begin(epoch)
        torch.manual_seed(
            seed * 1_000_003 + epoch + (collectives.place().rank << 40)
        )  # dropout is not the same everywhere
        saved, self._saved = self._saved, None
        if saved is None or saved["epoch"] != epoch:
            return
        self.num_batches, self.num_images = saved["num_batches"], saved["num_images"]
        self.num_skipped, self.in_a_row, self._seconds = saved["num_skipped"], saved["in_a_row"], saved["seconds"]
        self.loss_sum += saved["loss_sum"].to(self.device)
        set_generators(_own(saved["random"]), self.device)

    def stepped(self, num_batches: int, loss_sum: Tensor) -> None:
        """A step was launched.

        Args:
            loss_sum: Of its images; 0 where it is not finite.
        """
        self.num_batches += num_batches
        self.loss_sum += loss_sum

    def taken(self, num_images: int) -> None:
        """A step was finite."""
        self.num_images += num_images
        self.in_a_row = 0

    def skipped(self) -> None:
        """A step was not finite, and so not taken."""
        self.num_skipped += 1
        self.in_a_row += 1

    @property
    def mean_loss(self) -> float:
        """Per image, of the steps that were taken; nan where none was."""
        return self.loss_sum.item() / self.num_images if self.num_images else float("nan")

    def end(self) -> None:
        """The epoch is over."""
        self._begin(0)

    @property
    def is_within(self) -> bool:
        """Whether there is anything of an epoch that is not over."""
        return self.num_batches > 0

    @property
    def seconds(self) -> float:
        """Spent on this epoch, by earlier processes too."""
        return self._seconds + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """As a checkpoint keeps it; all that train together must ask for it."""
        return {
            "epoch": self.epoch,
            "num_batches": self.num_batches,
            "num_images": self.num_images,
            "num_skipped": self.num_skipped,
            "in_a_row": self.in_a_row,
            "loss_sum": self.loss_sum.detach().cpu(),
            "seconds": self.seconds,
            "random": _of_all(generators(self.device)),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Of an earlier process; it counts when its epoch begins."""
        self._saved = saved


def generators(device: torch.device) -> dict[str, Tensor]:
    """States of torch's generators that a step draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _of_all(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of all that train together: under the names of the first one, and of the others with their rank."""
    found = {}
    for name, state in states.items():
        for rank, part in enumerate(collectives.gathered(state)):
            found[f"{name}/{rank}" if rank else name] = part
    return found


def _own(states: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Those of this process; where another number trained together, of the first one alone."""
    place = collectives.place()
    if place.is_first:
        return states
    own = {name.partition("/")[0]: state for name, state in states.items() if name.endswith(f"/{place.rank}")}
    return own or generators(torch.device("cpu"))


def set_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Raises DataError where these are no states of generators."""
    try:
        torch.set_rng_state(states["cpu"])
        if device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], device)
    except (KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"'random': not the state of torch's generator ({error})", where="the checkpoint") from error
