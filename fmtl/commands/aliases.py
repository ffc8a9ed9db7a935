"""``history`` and ``rollback``: where a registered model's alias has pointed, and one step back."""

from fmtl.errors import DataError
from fmtl.settings.schema import AliasSettings, HistorySettings, RollbackSettings
from fmtl.tracking import registry
from fmtl.tracking.registry import Move


def history(settings: HistorySettings) -> list[Move]:
    """Run the whole command; prints every move, the first one first."""
    moves = registry.moves(settings.name, settings.alias)
    for move in moves:
        before = f"version {move.before}" if move.before is not None else "nothing"
        at, by, why = (" ".join(text.split()) for text in (move.at, move.by, move.why))
        print(f"{at} {by}: {before} -> version {move.after}: {why}")
    now = registry.alias_target(settings.name, settings.alias)
    called = f"{settings.name}@{settings.alias}"
    print(f"{called} points to version {now}" if now is not None else f"there is no alias {called}")
    if moves and moves[-1].after != now:
        print(f"the last move that was kept led to version {moves[-1].after}: somebody else has moved it since")
    return moves


def rollback(settings: RollbackSettings) -> int:
    """Run the whole command; prints where the alias points now, and returns it.

    Raises:
        DataError: No earlier version is known, or its model is not whole any more.
    """
    back = _before(settings)
    if (run := registry.run_of(settings.name, back)) is not None:
        registry.check(run)
    previous = registry.move_alias(settings.name, settings.alias, back, why="rollback", is_back=True)
    print(f"{settings.name}@{settings.alias} points to version {back} again; it pointed to version {previous}")
    return back


def _before(settings: AliasSettings) -> int:
    now = registry.alias_target(settings.name, settings.alias)
    found = registry.step_back(registry.moves(settings.name, settings.alias), now)
    if found is None:
        told = "no version is known that it pointed to before; fmtl history shows what was kept"
        raise DataError(told, where=f"{settings.name}@{settings.alias}")
    return found
