"""What processes that train together say to each other; alone, everything is what it was.

All of them must come to each of these in the same order. Rank 0 leads: it gives the others work (``call``), at which
all are together until it is done (``dismiss``). What is said to MLflow or written to a disk is said and written there.
"""

import contextlib
import io
import json
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from fmtl import interruption
from fmtl.errors import EnvironmentFault, FmtlError, RankFailed, Terminated
from fmtl.together.ranks import ALONE, Place

PATIENCE = timedelta(hours=1)  # for a rank that is busy with something else; one that is gone is noticed at once
# That a rank which ends waits for the first one to close its run, and that one for all to go.
LAST_WORDS_SECONDS = 20.0
_HERE, _INVITED, _GONE, _ERROR, _CLOSED, _WORK = "here", "invited", "gone", "error", "closed", "work"


class _Joined:
    """The group that this process belongs to: torch has one per process, too.

    Attributes:
        num_works: That the first rank has given.
        at_work: All are at the same one.
    """

    place = ALONE
    store: distributed.Store | None = None
    num_works = 0
    at_work = False


@contextlib.contextmanager
def joined(place: Place, device: torch.device) -> Iterator[None]:
    """Within it this process is one of ``place.size``.

    Raises:
        RankFailed: Another one failed; with what it said.
        EnvironmentFault: Another one was lost.
    """
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    store = distributed.PrefixStore(_met(store, place), store)
    _Joined.place, _Joined.num_works, _Joined.at_work = place, 0, False
    _Joined.store = distributed.PrefixStore("said", store)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(
        backend, store=distributed.PrefixStore("group", store), rank=rank, world_size=size, timeout=PATIENCE
    )
    try:
        yield
        _part(place)
    except (KeyboardInterrupt, Terminated):
        if not place.is_first:
            _wait([_CLOSED])  # or torchrun would end the first one, too, while it still writes
        raise
    except Exception as error:
        if not place.is_first:
            _leave(error)
        raise
    finally:
        if place.is_first:
            with contextlib.suppress(Exception):  # the store may be gone with its machine
                _Joined.store.set(_CLOSED, "yes")
        if distributed.is_initialized():
            distributed.destroy_process_group()
        _Joined.place, _Joined.store, _Joined.at_work = ALONE, None, False


def _met(store: distributed.Store, place: Place) -> str:
    """A name for this meeting of all ranks, which none before it had.

    torchrun may give the same store to the processes that it starts again, with all that the earlier ones wrote, and
    its count of restarts is not the same on every machine. So each rank writes a word that is new, and the first one
    invites those whose words it has read, until all of them have accepted the same invitation.
    """
    mine, until, invited = uuid.uuid4().hex, time.monotonic() + PATIENCE.total_seconds(), None
    store.set(f"{_HERE}/{place.rank}", mine)
    ranks = range(place.size)
    while time.monotonic() < until:
        if place.is_first:
            keys = [f"{_HERE}/{rank}" for rank in ranks]
            if store.check(keys):
                words = [store.get(key).decode() for key in keys]
                if invited is None or invited["words"] != words:
                    invited = {"name": uuid.uuid4().hex, "words": words}
                    store.set(_INVITED, json.dumps(invited))
        elif store.check([_INVITED]):
            invited = json.loads(store.get(_INVITED))
        if invited and invited["words"][place.rank : place.rank + 1] == [mine]:
            name = str(invited["name"])
            store.set(f"{name}/{place.rank}", "yes")
            if store.check([f"{name}/{rank}" for rank in ranks]):
                return name
        time.sleep(0.02)
    raise EnvironmentFault(f"after {PATIENCE} not all of the {place.size} processes are there")


def _part(place: Place) -> None:
    """All is done: the first rank, whose store it may be, is the last to go."""
    store = _Joined.store
    assert store is not None
    if not place.is_first:
        store.set(f"{_GONE}/{place.rank}", "yes")
        return
    _put_work(b"")
    _wait([f"{_GONE}/{rank}" for rank in range(1, place.size)])


def _wait(keys: list[str]) -> None:
    """For what another rank is to do, as long as its store answers, and not for ever."""
    until, store = time.monotonic() + LAST_WORDS_SECONDS, _Joined.store
    assert store is not None
    with contextlib.suppress(RuntimeError):
        while time.monotonic() < until and not store.check(keys):
            time.sleep(0.05)


def _leave(error: Exception) -> None:
    """Say why this rank fails, part from the others, which wakes them, and wait until the first one has closed its run.

    Raises:
        SystemExit: Another one has said why already.
        Terminated: This one was asked to end.
    """
    if is_lost(error):
        interruption.check()
        raise SystemExit(EnvironmentFault.exit_code) from error
    place, store = _Joined.place, _Joined.store
    said = {"rank": place.rank, "said": str(error), "kind": type(error).__name__,
            "exit_code": getattr(error, "exit_code", 1)}  # fmt: skip
    mine = json.dumps(said)
    assert store is not None
    if store.compare_set(_ERROR, "", mine).decode() != mine:
        raise SystemExit(said["exit_code"]) from error
    distributed.destroy_process_group()
    _wait([_CLOSED])


@contextlib.contextmanager
def named_failures() -> Iterator[None]:
    """Within it, what ends the first rank because another one failed is that one's error."""
    try:
        yield
    except BaseException as error:
        num = _Joined.place.size
        told = _failure() if num > 1 else None
        if told and (isinstance(error, Terminated) or not isinstance(error, FmtlError)):
            raise told from error
        if num > 1 and is_lost(error):
            raise EnvironmentFault(
                f"one of the {num} processes that train together is gone; what it said last stands above, or under "
                "torchrun's --log-dir"
            ) from error
        raise


def _failure() -> RankFailed | None:
    """What another rank said when it failed."""
    store = _Joined.store
    if store is None or not store.check([_ERROR]):
        return None
    said = json.loads(store.get(_ERROR))
    kind = "" if said["kind"] in ("DataError", "UsageError", "EnvironmentFault") else f"{said['kind']}: "
    return RankFailed(f"rank {said['rank']} of {_Joined.place.size}: {kind}{said['said']}", exit_code=said["exit_code"])


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def size() -> int:
    """How many processes are at work together."""
    return place().size


def place() -> Place:
    """This process's among them."""
    return _Joined.place if _Joined.at_work else ALONE


# -- work that the first rank gives ------------------------------------------------------------------------------------


def call(work: dict[str, Any]) -> None:
    """Give the other ranks work: plain values and tensors. Until ``dismiss`` all are at it."""
    if _Joined.place.size > 1 and _Joined.place.is_first:
        _put_work(_packed(work))
        _Joined.at_work = True


def dismiss() -> None:
    """The work that all were at is done."""
    _Joined.at_work = False


def called() -> dict[str, Any] | None:
    """The next work; None when all is done. The first rank may be busy elsewhere for long meanwhile."""
    assert _Joined.store is not None
    key = f"{_WORK}/{_Joined.num_works}"
    while not _Joined.store.check([key]):
        time.sleep(0.05)
    _Joined.num_works += 1
    if not int(_Joined.store.get(key)):
        return None
    _Joined.at_work = True
    return _unpacked(_handed_out(None))


def _put_work(content: bytes) -> None:
    assert _Joined.store is not None
    _Joined.store.set(f"{_WORK}/{_Joined.num_works}", str(int(bool(content))))
    _Joined.num_works += 1
    if content:
        _handed_out(content)


def hand_out(value: Any) -> Any:
    """The first rank's value on all of them: plain values and tensors."""
    if size() == 1:
        return value
    return _unpacked(_handed_out(_packed({"value": value}) if place().is_first else None))["value"]


def _packed(value: dict[str, Any]) -> bytes:
    written = io.BytesIO()
    torch.save(value, written)
    return written.getvalue()


def _unpacked(content: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _handed_out(content: bytes | None) -> bytes:
    length = torch.tensor([len(content or b"")])
    distributed.broadcast(length, src=0)
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
    data = data if content else torch.empty(int(length), dtype=torch.uint8)
    distributed.broadcast(data, src=0)
    return data.numpy().tobytes()


# -- tensors -----------------------------------------------------------------------------------------------------------


def summed(tensor: Tensor) -> Tensor:
    """The sum over all ranks; no gradient passes."""
    if size() == 1:
        return tensor
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total


def gathered(rows: Tensor) -> list[Tensor]:
    """Of each rank its rows ``(N, ...)``, where N may differ."""
    if size() == 1:
        return [rows]
    lengths = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(size())]
    distributed.all_gather(lengths, torch.tensor([len(rows)], device=rows.device))
    sizes = [int(length) for length in lengths]
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return [part[:num] for part, num in zip(parts, sizes, strict=True)]


def in_order(rows: Tensor, positions: Tensor) -> Tensor:
    """The rows of all ranks in the order of their positions ``(N,)``, each of which one rank has."""
    if size() == 1:
        return rows
    order = torch.cat(gathered(positions.to(rows.device))).argsort()
    return torch.cat(gathered(rows))[order]


def spread(module: nn.Module) -> None:
    """Give all ranks the first one's weights and buffers."""
    if size() > 1:
        with torch.no_grad():
            for tensor in module.state_dict().values():
                whole = tensor.contiguous()
                distributed.broadcast(whole, src=0)
                tensor.copy_(whole)


def spread_buffers(module: nn.Module) -> None:
    """Give all ranks the first one's buffers."""
    if size() > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)


def averaging(module: nn.Module, device: torch.device) -> nn.Module:
    """The same module, after whose backward pass all ranks have the mean of their gradients."""
    if size() == 1:
        return module
    return DistributedDataParallel(
        module, device_ids=[device.index] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )


def unaveraged(module: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Within it, a backward pass adds to this rank's gradients alone."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()


# -- numbers and questions, which never wait for a GPU ----------------------------------------------------------------


def total(value: float) -> float:
    """The sum over all ranks."""
    if size() == 1:
        return value
    return float(summed(torch.tensor(value, dtype=torch.float64)))


def least(value: int) -> int:
    """The smallest of all ranks'."""
    if size() > 1:
        found = torch.tensor(value)
        distributed.all_reduce(found, distributed.ReduceOp.MIN)
        return int(found)
    return value


def any_of(*questions: bool) -> list[bool]:
    """Whether any rank says yes, to each question."""
    if size() == 1:
        return list(questions)
    return (summed(torch.tensor(questions, dtype=torch.int64)) > 0).tolist()


def check(*, is_asked: bool | None = None) -> None:
    """``interruption.check`` of all ranks: a signal that one of them heard ends all, at the same place.

    Args:
        is_asked: What they have agreed on already.
    """
    if size() > 1 and is_asked is None:
        (is_asked,) = any_of(interruption.is_asked())
    interruption.check()
    if is_asked:
        raise Terminated
