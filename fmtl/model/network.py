"""The network: a shared backbone and one linear head per task.

N images, D features, K classes of a task, S classes of all tasks, V values of all sets.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from fmtl.model.cpu import depthwise, pointwise
from fmtl.model.execution import Execution
from fmtl.model.packing import Packing
from fmtl.model.recomputation import StatisticsOnce, recompute_blocks


class MultiTaskNet(nn.Module):
    """Backbone and heads. The heads are one linear layer, split by task: one product instead of many.

    Args:
        backbone: ``(N, 3, H, W)`` to features ``(N, D)``.
        num_features: D.
        num_classes: K by task name.
        sets: Names of the tasks that are sets, which have a threshold for each value: its probability from which on an
            image is said to have it. A network without sets has none, so that its weights are those of before.
    """

    thresholds: Tensor

    def __init__(
        self, backbone: nn.Module, num_features: int, num_classes: Mapping[str, int], sets: Collection[str] = ()
    ):
        super().__init__()
        self.backbone = backbone
        self.packing = Packing(num_classes, sets)
        if sets:
            self.register_buffer("thresholds", torch.full((len(self.packing.values),), 0.5))
        self.heads = nn.Linear(num_features, sum(num_classes.values()))
        self.temperatures: dict[str, float] = {}
        self.execution = Execution()
        self.frozen = False
        self._counting: AbstractContextManager[None] = nullcontext()

    @property
    def num_classes(self) -> dict[str, int]:
        return self.packing.num_classes

    @property
    def sets(self) -> frozenset[str]:
        return self.packing.sets

    def probs(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits ``(N, K)`` by task name to probabilities: of a class to be the one, or of each value of a set; under
        the temperature of the task, if it has one."""
        scaled = {name: part / self.temperatures.get(name, 1.0) for name, part in logits.items()}
        return {name: part.sigmoid() if name in self.sets else part.softmax(dim=1) for name, part in scaled.items()}

    @torch.no_grad()
    def calibrate(self, temperatures: Mapping[str, float]) -> None:
        """Divide logits by these from now on, by task name. What is said of images stays the same: thresholds of sets
        move along."""
        if self.temperatures:
            raise AssertionError("the network is calibrated already")
        self.temperatures = dict(temperatures)
        for name, values in self.thresholds_of.items():
            values.copy_((values.double().logit() / temperatures.get(name, 1.0)).sigmoid())

    @property
    def thresholds_of(self) -> dict[str, Tensor]:
        """``(values,)`` by name of the tasks that are sets: views of ``thresholds``."""
        sizes = {name: size for name, size in self.num_classes.items() if name in self.sets}
        return dict(zip(sizes, self.thresholds.split(list(sizes.values())), strict=True)) if sizes else {}

    @torch.no_grad()
    def start_at_base_rates(self, counts: Mapping[str, Tensor]) -> None:
        """Let the values of sets begin as likely as they are: or the first steps learn but that most images lack most
        values (Lin et al. 2017, arXiv:1708.02002, section 4.1).

        Args:
            counts: Training images with and without each value, ``(K, 2)``, by name of each set.
        """
        for name, bias in self.packing.split(self.heads.bias.unsqueeze(0)).items():
            if name in self.sets and name in counts:
                yes, no = (counts[name].to(bias) + 1).unbind(dim=1)
                bias[0] = (yes / no).log()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits ``(N, K)`` by task name."""
        return self.packing.split(self.logits(images))

    def logits(self, images: Tensor) -> Tensor:
        """Of all tasks, ``(N, S)`` float32."""
        return self.heads(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """``(N, D)`` float32, whatever precision the backbone runs in."""
        if images.ndim == 4:
            images = images.contiguous(memory_format=self.execution.memory_format)
        learns = torch.is_grad_enabled() and not self.frozen
        with torch.set_grad_enabled(learns), self.execution.autocast(images.device.type), self._counting:
            return self.backbone(images).float()

    def run_on(self, device: torch.device, execution: Execution) -> "MultiTaskNet":
        """Move to a device and run there in this way from now on."""
        self.execution = execution
        self.to(device).to(memory_format=execution.memory_format)
        pointwise.make_safe(self.backbone, enabled=device.type == "cpu")
        depthwise.speed_up(self.backbone, enabled=depthwise.HERE and device.type == "cpu" and not execution.compile)
        if execution.compile:
            self.backbone.compile()
        return self

    def freeze_backbone(self, frozen: bool = True) -> None:
        """Train the heads only; the backbone stays in evaluation mode, its BatchNorm statistics as they are."""
        self.frozen = frozen
        self.backbone.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> "MultiTaskNet":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def heads_alone(self) -> "MultiTaskNet":
        """A network of the same heads that takes features ``(N, D)`` instead of images."""
        alone = MultiTaskNet(nn.Identity(), self.heads.in_features, self.num_classes, self.sets)
        alone.heads, alone.packing = self.heads, self.packing  # where they are
        if self.sets:
            alone.thresholds = self.thresholds
        return alone

    def checkpoint_gradients(self) -> None:
        """Keep only the inputs of the backbone's blocks for the backward pass: less memory, a third more time."""
        recompute_blocks(self.backbone)
        self._counting = StatisticsOnce(self.backbone)
