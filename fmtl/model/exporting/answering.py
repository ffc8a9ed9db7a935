"""A trained network from the stored square to probabilities, in float32 and free of what training and speed added."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from fmtl.model import backbones
from fmtl.model.exporting.fitting import Fit, Normalise, Sides
from fmtl.model.predictor import Predictor


class Answers(nn.Module):
    """``(N, S, S, 3)`` uint8 to the probabilities of each task, ``(N, K)`` float32, in the order of the tasks."""

    def __init__(self, model: Predictor):
        super().__init__()
        tasks, preprocess = model.tasks, model.preprocess
        self.normalise = Normalise(preprocess)
        self.net = backbones.build(model.backbone, tasks.num_classes, tasks.sets, weights="none", px=preprocess.px)
        self.net.load_state_dict(model.net.state_dict())
        self.net.temperatures = dict(model.net.temperatures)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def exact(self, squares: np.ndarray) -> dict[str, np.ndarray]:
        """``(N, K)`` by task name as float64 has it, of ``(N, S, S, 3)`` uint8: what rounding costs is known by it."""
        net = copy.deepcopy(self.net).double()
        inputs = self.normalise(torch.from_numpy(squares)).double()
        found = net.probs(net.packing.split(net.heads(net.backbone(inputs))))
        return {name: part.numpy() for name, part in found.items()}

    def forward(self, square: Tensor) -> tuple[Tensor, ...]:
        logits = self.net.packing.split(self.net.heads(self.net.backbone(self.normalise(square))))
        return tuple(self.net.probs(logits).values())


class Whole(nn.Module):
    """``(N, H, W, 3)`` uint8 RGB of any size to the probabilities of each task, by its slug."""

    def __init__(self, model: Predictor):
        super().__init__()
        self.slugs = [task.slug for task in model.tasks]
        self.sides = Sides(model.preprocess.stored_px, model.preprocess.fit)
        self.across_first, self.down_first = (Fit(model.preprocess, down_first=first) for first in (False, True))
        self.answers = Answers(model)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        # Both, since a traced program has no branches; an ONNX file has.
        square = torch.where(self.sides(image), self.down_first(image), self.across_first(image))
        return dict(zip(self.slugs, self.answers(square), strict=True))
