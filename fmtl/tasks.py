"""Tasks: the learning problem of one attribute, and its labels as targets."""

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fmtl.errors import DataError, UsageError, did_you_mean

IGNORE_INDEX = -100  # PyTorch's own: a target that is unknown
SINGLE, SET = "single", "set"  # kinds of tasks: one class of each image, or any number of them
SEPARATOR = "|"  # between the values of a set in one cell
APPLIES, DOES_NOT_APPLY = "yes", "no"  # classes of the task that says whether an attribute applies to a product
Label = str | tuple[str, ...]  # of a set its values, in the order of the classes

Table = TypeVar("Table", bound=Any)  # a numpy array or a tensor

AVERAGE = "avg"  # stands beside task names in dicts of scores
# Words that stand where a task's slug stands in metric names, file names or table columns.
RESERVED_SLUGS = frozenset({AVERAGE, "loss", "image", "status", "id", "path", "split"})
MAX_SLUG_LENGTH = 80  # MLflow allows 250 characters for a whole metric name,
_SLUG = re.compile(r"[\w.-]+")
MAX_SLUG_BYTES = 120  # and file systems 255 bytes for a file's, of which pictures' steps and times take their part


@dataclass(frozen=True)
class Task:
    """One attribute to predict.

    Attributes:
        name: The attribute as the catalogue spells it; the key of every dict by task.
        slug: The name made safe for metrics, files and columns; unique within a list of tasks.
        classes: The labels in index order; of a set its values.
        kind: ``single``: an image has one class. ``set``: it has any number of them, or none.
        applies_to: Of a task that says whether an attribute applies to a product at all, the attribute's name.
    """

    name: str
    slug: str
    classes: tuple[str, ...]
    kind: str = SINGLE
    applies_to: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def is_set(self) -> bool:
        return self.kind == SET

    @property
    def columns(self) -> list[str]:
        """Names of its columns of targets: one, or one for each value of a set."""
        return [f"{self.slug}/{value}" for value in self.classes] if self.is_set else [self.slug]

    def targets(self, labels: Iterable[Label | None]) -> list[list[int]]:
        """A row per label, ``(N, columns)``: its index, or of a set 1 for each value that it has and 0 for the others.

        ``IGNORE_INDEX`` where the label is None, or no class. What a set has besides its classes is left out.
        """
        index: dict[Label, int] = {label: i for i, label in enumerate(self.classes)}
        if not self.is_set:
            return [[IGNORE_INDEX if label is None else index.get(label, IGNORE_INDEX)] for label in labels]
        unknown = [IGNORE_INDEX] * self.num_classes
        return [unknown if label is None else [int(value in label) for value in self.classes] for label in labels]

    def label(self, target: Sequence[int]) -> Label | None:
        """What a row of ``targets`` means; None where it is unknown. What is unknown of a set is left out of it."""
        if all(value == IGNORE_INDEX for value in target):
            return None
        if self.is_set:
            return tuple(value for value, has in zip(self.classes, target, strict=True) if has == 1)
        return self.classes[target[0]]

    def text(self, target: Sequence[int]) -> str:
        """``label`` as one text, empty where it is unknown."""
        label = self.label(target)
        return "" if label is None else as_text(label)

    def texts(self, targets: Table) -> list[str]:
        """``text`` of an array ``(N,)`` of indices, or of a set ``(N, values)``."""
        return [self.text(target) for target in targets.reshape(len(targets), len(self.columns)).tolist()]


class Tasks(tuple[Task, ...]):
    """The tasks of one network, in the order of its heads."""

    __slots__ = ()

    @property
    def names(self) -> list[str]:
        return [task.name for task in self]

    @property
    def num_classes(self) -> dict[str, int]:
        """K by task name."""
        return {task.name: task.num_classes for task in self}

    @property
    def sets(self) -> frozenset[str]:
        """Names of those that are sets."""
        return frozenset(task.name for task in self if task.is_set)

    @property
    def attributes(self) -> list[str]:
        """Names of those that averages are taken over: all but those that say whether another applies."""
        return [task.name for task in self if not task.applies_to]

    @property
    def applicability(self) -> dict[str, Task]:
        """By name of the attributes that do not apply to every product, the task that says whether they do."""
        return {task.applies_to: task for task in self if task.applies_to}

    def unconditional(self) -> "Tasks":
        """The same, each by itself: what an attribute would be is told whether or not it applies."""
        return Tasks(replace(task, applies_to="") for task in self)

    @property
    def columns(self) -> list[str]:
        """Names of all columns of targets."""
        return [column for task in self for column in task.columns]

    def places(self) -> Iterator[tuple[Task, slice]]:
        """Each task, and where its columns of targets lie."""
        start = 0
        for task in self:
            end = start + len(task.columns)
            yield task, slice(start, end)
            start = end

    def by_name(self, targets: Table) -> dict[str, Table]:
        """Columns of targets, an array or tensor ``(N, columns)``, to ``(N,)``, of a set ``(N, values)``, by name."""
        return {task.name: targets[:, at if task.is_set else at.start] for task, at in self.places()}

    def task_of(self, column: int) -> Task:
        """Whose column of targets it is."""
        return next(task for task, place in self.places() if place.start <= column < place.stop)

    def to_json(self) -> list[dict[str, Any]]:
        """A task of one class per image is written as it was before there were others."""
        return [
            {"name": t.name, "slug": t.slug, "classes": list(t.classes)}
            | ({"kind": t.kind} if t.is_set else {})
            | ({"applies_to": t.applies_to} if t.applies_to else {})
            for t in self
        ]

    @classmethod
    def from_json(cls, items: object, *, where: str = "tasks") -> "Tasks":
        """What ``to_json`` made; slugs become file names, so that nothing else is taken.

        Raises:
            DataError: It is something else.
        """
        tasks = cls(_task(item, where) for item in (items if isinstance(items, list) else [items]))
        slugs = {task.slug.casefold() for task in tasks}
        if len(slugs) < len(tasks) or len({task.name for task in tasks}) < len(tasks):
            raise DataError("two tasks have one name or slug", where=where)
        lost = next((task for task in tasks if task.applies_to and task.applies_to not in tasks.attributes), None)
        if lost or len(tasks.applicability) < len(tasks) - len(tasks.attributes):
            raise DataError("each task with applies_to names another task, and no two the same", where=where)
        return tasks


def _task(item: object, where: str) -> Task:
    if (
        not isinstance(item, Mapping)
        or set(item) - {"kind", "applies_to"} != {"name", "slug", "classes"}
        or not isinstance(item["classes"], list)
    ):
        raise DataError("expected of each task its name, slug and classes", where=where)
    task = Task(
        item["name"], item["slug"], tuple(item["classes"]), item.get("kind", SINGLE), item.get("applies_to", "")
    )
    if task.kind not in (SINGLE, SET):
        raise DataError(f"a task is of kind {SINGLE} or {SET}, got {str(task.kind)[:80]!r}", where=where)
    if task.applies_to and task.classes != (DOES_NOT_APPLY, APPLIES):
        raise DataError(f"a task with applies_to has the classes {DOES_NOT_APPLY} and {APPLIES}", where=where)
    if not all(isinstance(text, str) for text in (task.name, task.slug, task.applies_to, *task.classes)):
        raise DataError("names, slugs and classes of tasks are text", where=where)
    if not _SLUG.fullmatch(task.slug) or not task.slug.strip("."):
        raise DataError(f"{task.slug[:80]!r} is no slug of a task", where=where)
    return task


def as_text(label: Label, separator: str = SEPARATOR) -> str:
    """A label in one cell: the values of a set with bars or another mark between them, or as a JSON list where that
    would be read otherwise."""
    if isinstance(label, str):
        return label
    is_plain = label and not any(separator in value or value.startswith(("[", "(", "{")) for value in label)
    return separator.join(label) if is_plain else json.dumps(list(label), ensure_ascii=False)


def make_tasks(
    classes: Mapping[str, Sequence[str]], sets: Collection[str] = (), applies_to: Mapping[str, str] | None = None
) -> Tasks:
    """Tasks with unique slugs from the classes of each attribute, in the order given.

    Args:
        sets: Names of those that are sets.
        applies_to: By name of the tasks that say whether an attribute applies, the attribute.

    Raises:
        DataError: An attribute has the name under which averages are kept.
    """
    if AVERAGE in classes:
        raise DataError(f"attribute '{AVERAGE}': the averages over attributes have that name; rename the column")
    slugs = make_slugs(list(classes))
    return Tasks(
        Task(name, slug, tuple(classes[name]), SET if name in sets else SINGLE, (applies_to or {}).get(name, ""))
        for name, slug in zip(classes, slugs, strict=True)
    )


def make_slugs(names: Sequence[str]) -> list[str]:
    """Names made safe for metrics, files and columns; letters of every alphabet stay. A collision gets a number.

    Two slugs that differ only by case count as a collision, since some file systems can't tell them apart.
    """
    taken = set(RESERVED_SLUGS)
    slugs = []
    for name in names:
        base = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", name))[:MAX_SLUG_LENGTH]
        while len(base.encode()) > MAX_SLUG_BYTES:
            base = base[:-1]
        if not base.strip("."):  # empty, or a path step such as '..'
            base = base.replace(".", "_") or "_"
        slug, number = base, 2
        while slug.casefold() in taken:
            slug, number = f"{base}_{number}", number + 1
        taken.add(slug.casefold())
        slugs.append(slug)
    return slugs


def check_name(setting: str, name: str, names: Collection[str]) -> None:
    """
    Raises:
        UsageError: A setting names a task that there is not.
    """
    if name not in names:
        hint = did_you_mean(name, names, otherwise=f"the tasks are {', '.join(names)}")
        raise UsageError(f"{setting}: there is no task '{name}'; {hint}")
