"""What the first of several processes that train together tells the others to do."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from fmtl.errors import DataError
from fmtl.model.backbones import InputSpec
from fmtl.settings.train import TrainSettings
from fmtl.tasks import Tasks
from fmtl.together import collectives
from fmtl.training.checkpoints import Checkpoint


@dataclass(frozen=True)
class Call:
    """A training that is to begin, or to go on.

    Attributes:
        settings: All but where this process finds its data and its device.
        spec: What the network is to see.
        last: Where it stands.
        number: Of the variant, from 1.
    """

    settings: dict[str, Any]
    spec: InputSpec
    last: Checkpoint | None
    number: int


_number: ContextVar[int] = ContextVar("number of the variant", default=1)


@contextlib.contextmanager
def of_variant(number: int) -> Iterator[None]:
    """Within it, trainings are of this variant."""
    before = _number.set(number)
    try:
        yield
    finally:
        _number.reset(before)


def call(settings: TrainSettings, spec: InputSpec, last: Checkpoint | None) -> None:
    """Call the other processes to a training."""
    kept = vars(last) | {"tasks": last.tasks.to_json()} if last else None
    spec_of = {"px": spec.px, "mean": list(spec.mean), "std": list(spec.std)}
    collectives.call(
        {"settings": settings.model_dump(mode="json"), "spec": spec_of, "last": kept, "number": _number.get()}
    )


def called() -> Call | None:
    """What the first process called this one to; None when all is done."""
    found = collectives.called()
    if found is None:
        return None
    last, spec = found["last"], found["spec"]
    if last is not None:
        last = Checkpoint(**last | {"tasks": Tasks.from_json(last["tasks"], where="what rank 0 sent")})
    return Call(
        found["settings"], InputSpec(spec["px"], tuple(spec["mean"]), tuple(spec["std"])), last, found["number"]
    )


def same(digest: str, folder: object) -> None:
    """Raises DataError where the data of this process are not those of the first one."""
    wanted = collectives.hand_out(digest)
    if wanted != digest:
        raise DataError(
            f"this process has dataset {digest}, and the first one {wanted}; copy that one here, or name its folder "
            "with --data", where=str(folder),
        )  # fmt: skip
