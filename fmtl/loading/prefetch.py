"""Batches made in a thread while a GPU computes."""

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetched(batches: Iterator[T], ahead: int) -> Iterator[T]:
    """The same items, made in a thread up to ``ahead`` before they are asked for; its error is raised here."""
    made: queue.Queue = queue.Queue(ahead)
    stopped = threading.Event()

    def put(kind: str, item: object) -> bool:
        while not stopped.is_set():
            try:
                made.put((kind, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in batches:
                if not put("item", item):
                    return
            put("end", None)
        except Exception as error:  # whatever it is, it belongs to the caller
            put("error", error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (found := made.get())[0] == "item":
            yield found[1]
        if found[0] == "error":
            raise found[1]
    finally:
        stopped.set()
        thread.join()
