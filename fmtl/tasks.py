"""Tasks: the learning problem of one attribute, and its labels as targets."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fmtl.errors import DataError, UsageError, did_you_mean

IGNORE_INDEX = -100  # PyTorch's own: a target that is unknown

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
        classes: The labels in index order.
    """

    name: str
    slug: str
    classes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def targets(self, labels: Iterable[str | None]) -> list[int]:
        """Index of each label; ``IGNORE_INDEX`` where it is None or not one of the classes."""
        index = {label: i for i, label in enumerate(self.classes)}
        return [IGNORE_INDEX if label is None else index.get(label, IGNORE_INDEX) for label in labels]


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

    def to_json(self) -> list[dict]:
        return [{"name": t.name, "slug": t.slug, "classes": list(t.classes)} for t in self]

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
        return tasks


def _task(item: object, where: str) -> Task:
    if (
        not isinstance(item, Mapping)
        or set(item) != {"name", "slug", "classes"}
        or not isinstance(item["classes"], list)
    ):
        raise DataError("expected of each task its name, slug and classes", where=where)
    task = Task(item["name"], item["slug"], tuple(item["classes"]))
    if not all(isinstance(text, str) for text in (task.name, task.slug, *task.classes)):
        raise DataError("names, slugs and classes of tasks are text", where=where)
    if not _SLUG.fullmatch(task.slug) or not task.slug.strip("."):
        raise DataError(f"{task.slug[:80]!r} is no slug of a task", where=where)
    return task


def make_tasks(classes: Mapping[str, Sequence[str]]) -> Tasks:
    """Tasks with unique slugs from the classes of each attribute, in the order given.

    Raises:
        DataError: An attribute has the name under which averages are kept.
    """
    if AVERAGE in classes:
        raise DataError(f"attribute '{AVERAGE}': the averages over attributes have that name; rename the column")
    slugs = make_slugs(list(classes))
    return Tasks(Task(name, slug, tuple(classes[name])) for name, slug in zip(classes, slugs, strict=True))


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
