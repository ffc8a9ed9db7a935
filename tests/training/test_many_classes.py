"""Ten thousand classes beside a few small tasks."""

import subprocess
import sys

MEMORY = """
import resource, torch
from torch import nn
from fmtl.model.network import MultiTaskNet
from fmtl.training.criterion import MultiTaskLoss
from fmtl.training.evaluating import evaluate

K, N = 10_000, 3200
sizes = {"brand": K, **{f"t{i}": 10 for i in range(6)}}
net = MultiTaskNet(nn.Flatten(), 48, sizes)
batches = [
    (torch.rand(64, 3, 4, 4), {name: torch.randint(0, size, (64,)) for name, size in sizes.items()})
    for _ in range(N // 64)
]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
found = evaluate(net, batches, loss=MultiTaskLoss(sizes), device=torch.device("cpu"))
print((peak() - before) / (N * sum(sizes.values()) * 4))
assert len(found.scores) == 8
"""


def test_evaluation_takes_little_more_memory_than_the_scores():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 3
