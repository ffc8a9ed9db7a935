"""A model that is made in a moment, and a signal that ends a training."""

import logging
import os
import signal

import pytest
import torch

from fmtl import interruption
from fmtl.commands.train import train
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import Terminated
from fmtl.model import backbones, predictor
from fmtl.tasks import make_tasks


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    tasks = make_tasks({"Art des Teils": ["bag", "hat"]})
    net = backbones.build("resnet18", tasks.num_classes, weights="none", px=32)
    preprocess = Preprocess(32, "pad", "#ffffff", 32, (0.5,) * 3, (0.5,) * 3)
    predictor.save(tmp_path / "model", net, backbone="resnet18", tasks=tasks, preprocess=preprocess)
    return tmp_path / "model"


class Signal(logging.Handler):
    """Sends a signal to this process when a training has said that it did an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self._said = f"epoch {epoch}/"

    def emit(self, record):
        if record.getMessage().startswith(self._said):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def signalled_after():
    """Train until an epoch is over, with a signal; the training ends at the next chance."""
    logger = logging.getLogger("fmtl")

    def run(epoch, chosen):
        handler, level = Signal(epoch), logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            with interruption.heard(), pytest.raises(Terminated):
                train(chosen)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)

    return run
