"""How busy the machine is: MLflow's own sampler, which writes into the run's journal instead of to a store."""

import importlib.util
import logging
import math
import os
import threading

from mlflow.environment_variables import (
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
    MLFLOW_SYSTEM_METRICS_NODE_ID,
    MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
)
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from fmtl.errors import EnvironmentFault
from fmtl.tracking.record.journal import Journal, now

log = logging.getLogger(__name__)

PREFIX = "system/"
SECONDS = 10  # between two samples, as MLflow has it


def are_wanted() -> bool:
    """As the user says by MLflow's own switch; else yes, where it is possible."""
    said = os.environ.get(MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.name, "")
    wanted = MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() if said else None
    possible = importlib.util.find_spec("psutil") is not None
    if wanted and not possible:
        log.warning("%s is set, but system metrics need the package psutil: pip install psutil",
                    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.name)  # fmt: skip
    return possible and wanted is not False


class Sampler(SystemMetricsMonitor):
    """Samples until ``finish``."""

    def __init__(self, journal: Journal):
        # Not the parent's own, which opens the store in use.
        self.monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        if (gpu := self._initialize_gpu_monitor()) is not None:
            self.monitors.append(gpu)
        self.sampling_interval = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or SECONDS
        self.samples_before_logging = MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING.get() or 1
        self.node_id = MLFLOW_SYSTEM_METRICS_NODE_ID.get()
        self._shutdown_event = threading.Event()
        self._process = None
        self._journal = journal
        steps = [
            line["step"] for line, _ in journal.lines() if line["op"] == "metrics" and _is_of_system(line["values"])
        ]
        self._logging_step = max(steps, default=-1) + 1

    def monitor(self) -> None:
        while not self._shutdown_event.is_set():
            for _ in range(self.samples_before_logging):
                self.collect_metrics()
                if self._shutdown_event.wait(self.sampling_interval):
                    return
            try:
                self.publish_metrics(self.aggregate_metrics())
            except EnvironmentFault as error:  # who trains will find that the disk is full
                log.debug("no more system metrics: %s", error)
                return

    def finish(self) -> None:
        self._shutdown_event.set()
        if self._process is not None:
            self._process.join()

    def publish_metrics(self, metrics: dict[str, float]) -> None:
        prefix = PREFIX + (f"{self.node_id}/" if self.node_id else "")
        values = {prefix + name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._journal.append("metrics", values=values, step=self._logging_step, at=now())
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()


def _is_of_system(values: dict[str, float]) -> bool:
    return any(name.startswith(PREFIX) for name in values)
