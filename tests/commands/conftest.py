"""A model that is made in a moment."""

import pytest
import torch

from fmtl.loading.preprocess import Preprocess
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
