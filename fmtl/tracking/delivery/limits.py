"""What MLflow takes in one request."""

from collections.abc import Iterator

METRICS, PARAMS, TAGS = 1000, 100, 100  # in one request, at most: MLflow's own limits
MAX_TAG_LENGTH, MAX_PARAM_LENGTH = 5000, 6000  # the strictest of MLflow's stores


def chunks(items: list, size: int) -> Iterator[list]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
