import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

from fmtl.metrics import all_metrics, confusions, per_class, roc, task_metrics
from fmtl.packing import Packing
from fmtl.tasks import IGNORE_INDEX


def random_case(seed):
    """Logits and targets with missing targets and, mostly, absent classes."""
    rng = np.random.default_rng(seed)
    num_classes, num_images = int(rng.integers(2, 15)), int(rng.integers(1, 60))
    logits = torch.from_numpy(rng.normal(size=(num_images, num_classes))).float()
    targets = torch.from_numpy(rng.integers(0, num_classes, num_images))
    targets[torch.from_numpy(rng.random(num_images) < 0.2)] = IGNORE_INDEX
    return logits, targets


def count(logits, targets):
    return confusions(logits.unsqueeze(1), targets.unsqueeze(1), {"task": logits.shape[1]})["task"]


def test_all_tasks_are_counted_as_each_would_be_alone():
    cases = {f"task {seed}": random_case(seed) for seed in range(3)}
    num_images = min(len(targets) for _, targets in cases.values())
    cases = {name: (logits[:num_images], targets[:num_images]) for name, (logits, targets) in cases.items()}
    num_classes = {name: logits.shape[1] for name, (logits, _) in cases.items()}
    logits = Packing(num_classes).pad(torch.cat([logits for logits, _ in cases.values()], dim=1))
    found = confusions(logits, torch.stack([targets for _, targets in cases.values()], dim=1), num_classes)
    for name, case in cases.items():
        np.testing.assert_array_equal(found[name], count(*case))


@pytest.mark.parametrize("seed", range(40))
def test_scores_equal_scikit_learns(seed):
    logits, targets = random_case(seed)
    ours = task_metrics(count(logits, targets))
    known = targets != IGNORE_INDEX
    if not known.any():
        assert all(np.isnan(v) for v in ours.values())
        return
    truth, preds = targets[known].numpy(), logits[known].argmax(1).numpy()
    precision, recall, f1, _ = precision_recall_fscore_support(truth, preds, average="macro", zero_division=0)
    want = {"accuracy": accuracy_score(truth, preds), "f1": f1, "precision": precision, "recall": recall}
    assert ours == pytest.approx(want)


@pytest.mark.parametrize("seed", range(10))
def test_per_class_scores_equal_scikit_learns(seed):
    logits, targets = random_case(seed)
    known = targets != IGNORE_INDEX
    table = per_class(count(logits, targets))
    want = precision_recall_fscore_support(
        targets[known].numpy(), logits[known].argmax(1).numpy(), labels=range(logits.shape[1]), zero_division=0
    )
    seen = table["f1"].notna()
    for name, values in zip(("precision", "recall", "f1", "support"), want, strict=True):
        np.testing.assert_allclose(table[name][seen], values[seen])
        assert (values[~seen] == 0).all()


def test_scores_do_not_depend_on_the_order_of_images_or_classes():
    logits, targets = random_case(3)
    order = torch.randperm(len(logits))
    classes = torch.randperm(logits.shape[1])
    renamed = torch.where(targets >= 0, classes.argsort()[targets.clamp(min=0)], targets)
    want = task_metrics(count(logits, targets))
    assert task_metrics(count(logits[order], targets[order])) == pytest.approx(want)
    assert task_metrics(count(logits[:, classes], renamed)) == pytest.approx(want)


def test_the_average_leaves_out_tasks_without_any_target():
    perfect, empty, half = np.diag([3, 2]), np.zeros((4, 4), np.int64), np.array([[1, 1], [1, 1]])
    scores = all_metrics({"a": perfect, "b": empty, "c": half})
    assert scores["avg"] == pytest.approx({"accuracy": 0.75, "f1": 0.75, "precision": 0.75, "recall": 0.75})
    assert np.isnan(scores["b"]["f1"])


@pytest.mark.parametrize("seed", range(10))
def test_roc_areas_equal_scikit_learns(seed):
    logits, targets = random_case(seed + 100)
    probs, targets = logits.softmax(1).numpy(), targets.numpy()
    result = roc(probs, targets, tuple(f"c{k}" for k in range(probs.shape[1])))
    known = targets != IGNORE_INDEX
    for k, curve in enumerate(result["classes"]):
        positive = targets[known] == k
        assert curve["support"] == positive.sum()
        if curve["auc"] is None:
            assert curve["reason"] and (positive.all() or not positive.any())
        else:
            assert curve["auc"] == pytest.approx(roc_auc_score(positive, probs[known, k]))
            assert curve["fpr"][0] == curve["tpr"][0] == 0 and curve["fpr"][-1] == curve["tpr"][-1] == 1


def test_a_class_without_images_has_no_curve_and_says_why():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = roc(np.eye(3), np.array([0, 1, 1]), ("a", "b", "c"))
    assert [c["reason"] for c in result["classes"]] == [None, None, "no image of this class"]
    assert result["num_undefined"] == 1
