"""A small training, and a small model as an exported file."""

import torch

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.model import backbones
from fmtl.model.confidence import Confidence
from fmtl.model.execution import Execution
from fmtl.model.exported import Description
from fmtl.model.exporting.onnx_file import OnnxFile
from fmtl.model.predictor import Predictor
from fmtl.tasks import make_tasks

SMALL = {
    "backbone": "test_efficientnet", "weights": "none", "px": 32, "batch_size": 64, "gallery": False, "epochs": 1,
    "precision": "fp32", "extra_plots": False,
}  # fmt: skip
TASKS = make_tasks({"Colour": ["red", "green", "blue"], "Größe": ["S", "M"], "Material": ["a", "b"]}, sets={"Material"})


def exported_file(seed: int, version: str) -> bytes:
    torch.manual_seed(seed)
    spec = backbones.input_spec("test_efficientnet")
    net = backbones.build("test_efficientnet", TASKS.num_classes, TASKS.sets, weights="none", px=32).eval()
    torch.nn.init.normal_(net.heads.weight)
    net.run_on(torch.device("cpu"), Execution("fp32", channels_last=True))
    preprocess = Preprocess(48, "pad", "#ffffff", 32, spec.mean, spec.std, True)
    model = Predictor(net, TASKS, preprocess, torch.device("cpu"), "test_efficientnet")
    said = Description(TASKS, preprocess, {"Material": [0.5, 0.5]}, Confidence(), "shop", version, "d1")
    return OnnxFile(model, said).content()
