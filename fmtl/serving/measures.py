"""What a server tells Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Measures:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("fmtl_requests", "Requests answered.", ["path", "code"], registry=self._registry)
        self.photos = Counter("fmtl_photos", "Photos by what became of them.", ["status"], registry=self._registry)
        self.seconds = Histogram(
            "fmtl_predict_seconds", "From the whole request to its answer.", buckets=SECONDS, registry=self._registry
        )
        self.batches = Histogram(
            "fmtl_batch_photos", "Photos labelled together.", buckets=SIZES, registry=self._registry
        )
        self.waiting = Gauge("fmtl_waiting_photos", "Photos that wait or are computed.", registry=self._registry)
        self.swaps = Counter("fmtl_model_swaps", "Models that took another's place.", registry=self._registry)
        self.model = Gauge(
            "fmtl_model_info", "1 for the model that is served.", ["name", "version", "digest"],
            registry=self._registry,
        )  # fmt: skip

    def text(self) -> bytes:
        return generate_latest(self._registry)
