"""From a word to the class that it means."""

from collections.abc import Callable

from fmtl.catalogue.values.kinds import as_number
from fmtl.catalogue.values.labels import clean_label
from fmtl.tasks import Task


def class_of(task: Task) -> Callable[[str], str | None]:
    """A task's class by the same word, number, or the word in another case; None for a word that is none."""
    classes = set(task.classes)
    by_number = {number: label for label in task.classes if (number := as_number(label)) is not None}
    by_case = {label.casefold(): label for label in task.classes}

    def known_class(cell: str) -> str | None:
        label = clean_label(cell)
        if label is None or label in classes:
            return label
        number = as_number(label)
        return by_case.get(label.casefold()) if number is None else by_number.get(number)

    return known_class
