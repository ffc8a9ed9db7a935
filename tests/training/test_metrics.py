import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, average_precision_score, precision_recall_fscore_support, roc_auc_score

from fmtl.evaluation.curves import precision_recall, roc
from fmtl.metric_names import SCORES
from fmtl.model.confidence.calibration import calibration
from fmtl.model.packing import Packing
from fmtl.tasks import IGNORE_INDEX
from fmtl.training import metrics
from fmtl.training.evaluating import confusions
from fmtl.training.metrics import all_metrics, largest_confusions, per_class, task_metrics


def random_case(seed):
    """Logits and targets with missing targets and, mostly, absent classes."""
    rng = np.random.default_rng(seed)
    num_classes, num_images = int(rng.integers(2, 15)), int(rng.integers(1, 60))
    logits = torch.from_numpy(rng.normal(size=(num_images, num_classes))).float()
    targets = torch.from_numpy(rng.integers(0, num_classes, num_images))
    targets[torch.from_numpy(rng.random(num_images) < 0.2)] = IGNORE_INDEX
    return logits, targets


def count(logits, targets):
    return confusions(logits.argmax(1).unsqueeze(1), targets.unsqueeze(1), {"task": logits.shape[1]})["task"]


def test_all_tasks_are_counted_as_each_would_be_alone():
    cases = {f"task {seed}": random_case(seed) for seed in range(3)}
    num_images = min(len(targets) for _, targets in cases.values())
    cases = {name: (logits[:num_images], targets[:num_images]) for name, (logits, targets) in cases.items()}
    num_classes = {name: logits.shape[1] for name, (logits, _) in cases.items()}
    logits = Packing(num_classes).pad(torch.cat([logits for logits, _ in cases.values()], dim=1))
    found = confusions(logits.argmax(2), torch.stack([targets for _, targets in cases.values()], dim=1), num_classes)
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
    assert scores["avg"] == pytest.approx(dict.fromkeys(SCORES, 0.75))
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


@pytest.mark.parametrize("seed", range(10))
def test_average_curves_and_precisions_equal_scikit_learns(seed):
    logits, targets = random_case(seed + 200)
    probs, targets = logits.softmax(1).numpy(), targets.numpy()
    known = targets != IGNORE_INDEX
    classes = [f"c{k}" for k in range(probs.shape[1])]
    one_hot = targets[known][:, None] == np.arange(len(classes))
    areas, precisions = roc(probs, targets, classes), precision_recall(probs, targets, classes)
    mixed = [k for k in range(len(classes)) if 0 < one_hot[:, k].sum() < len(one_hot)]
    present = [k for k in range(len(classes)) if one_hot[:, k].any()]
    assert [c["ap"] for c in precisions["classes"] if c["ap"] is not None] == pytest.approx(
        average_precision_score(one_hot[:, present], probs[known][:, present], average=None).tolist()
        if len(present) > 1
        else [average_precision_score(one_hot[:, k], probs[known, k]) for k in present]
    )
    assert areas["macro_auc"] == (
        pytest.approx(np.mean([roc_auc_score(one_hot[:, k], probs[known, k]) for k in mixed])) if mixed else None
    )
    if mixed:
        micro = roc_auc_score(one_hot.ravel(), probs[known].ravel())
        assert areas["micro"]["auc"] == pytest.approx(micro)
        assert areas["macro"]["auc"] == areas["macro_auc"]
        assert np.all(np.diff(areas["macro"]["tpr"]) >= 0)
    if present:
        micro = average_precision_score(one_hot.ravel(), probs[known].ravel())
        assert precisions["micro"]["ap"] == pytest.approx(micro)
        assert precisions["macro_ap"] == pytest.approx(
            np.mean([average_precision_score(one_hot[:, k], probs[known, k]) for k in present])
        )


def test_stored_precision_recall_curves_have_the_area_that_they_state():
    """Of many photos, most points are left out; those that are kept lie where the recall changes."""
    rng = np.random.default_rng(0)
    targets = np.r_[rng.integers(0, 142, 6600), np.arange(142)]
    probs = rng.dirichlet(np.full(142, 0.05), len(targets))
    probs[np.arange(len(targets)), targets] += rng.random(len(targets)) * 1.5
    probs /= probs.sum(axis=1, keepdims=True)
    found = precision_recall(probs, targets, [f"c{k}" for k in range(142)])
    for curve in [*found["classes"], found["micro"]]:
        recall, precision = np.array(curve["recall"]), np.array(curve["precision"])
        assert len(recall) <= 200
        assert abs(-np.sum(np.diff(recall) * precision[:-1]) - curve["ap"]) < 0.01


def test_the_macro_curve_is_the_mean_of_the_curves():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    result = roc(probs, np.array([0, 1, 0, 1]), ("a", "b"))
    curves = [np.interp(result["macro"]["fpr"], c["fpr"], c["tpr"]) for c in result["classes"]]
    np.testing.assert_allclose(result["macro"]["tpr"][1:], np.mean(curves, axis=0)[1:], atol=1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_reliability_equals_scikit_learns_curve_and_the_error_is_the_weighted_gap(seed):
    logits, targets = random_case(seed + 300)
    probs, targets = logits.softmax(1).numpy(), targets.numpy()
    known = targets != IGNORE_INDEX
    result = calibration(probs, targets)
    right, confidence = probs[known].argmax(1) == targets[known], probs[known].max(1)
    filled = [b for b in result["bins"] if b["images"]]
    assert sum(b["images"] for b in filled) == result["images"] == known.sum()
    if not known.any():
        assert result["ece"] is None
        return
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    np.testing.assert_allclose([b["accuracy"] for b in filled], accuracy)
    np.testing.assert_allclose([b["confidence"] for b in filled], mean, rtol=1e-6)
    gap = sum(b["images"] * abs(b["accuracy"] - b["confidence"]) for b in filled) / known.sum()
    assert result["ece"] == pytest.approx(gap)


def test_the_largest_confusion_comes_first_and_hits_are_none():
    counts = np.array([[5, 1, 0], [3, 1, 4], [0, 0, 9]])
    table = largest_confusions(counts, ("a", "b", "c"))
    assert table.to_dict("list") == {
        "target": ["b", "b", "a"], "prediction": ["c", "a", "b"], "images": [4, 3, 1],
        "share": pytest.approx([4 / 8, 3 / 8, 1 / 6]),
    }  # fmt: skip
    assert largest_confusions(np.diag([2, 2]), ("a", "b")).empty


def test_without_any_target_nothing_is_defined_and_nothing_fails():
    probs, targets = np.full((3, 2), 0.5), np.full(3, IGNORE_INDEX)
    assert roc(probs, targets, ("a", "b"))["micro"] is None
    assert precision_recall(probs, targets, ("a", "b"))["macro_ap"] is None
    assert calibration(probs, targets) | {"bins": None} == {"bins": None, "ece": None, "images": 0}


def test_a_class_without_images_has_no_curve_and_says_why():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = roc(np.eye(3), np.array([0, 1, 1]), ("a", "b", "c"))
    assert [c["reason"] for c in result["classes"]] == [None, None, "no image of this class"]
    assert result["num_undefined"] == 1
    found = precision_recall(np.eye(3), np.array([0, 1, 1]), ("a", "b", "c"))
    assert [c["reason"] for c in found["classes"]] == [None, None, "no image of this class"]


def test_counts_of_very_many_classes_are_sparse_and_the_same():
    rng, num = np.random.default_rng(0), metrics.LARGEST_DENSE + 1
    predicted = torch.from_numpy(np.stack([rng.integers(0, num, 400), rng.integers(0, 3, 400)], axis=1))
    targets = predicted.clone()
    targets[rng.random(400) < 0.3, 0] = 7
    targets[rng.random(400) < 0.2] = IGNORE_INDEX
    found = confusions(predicted, targets, {"many": num, "few": 3})
    assert isinstance(found["few"], np.ndarray) and not isinstance(found["many"], np.ndarray)
    known = targets[:, 0] != IGNORE_INDEX
    dense = np.zeros((num, num), np.int64)
    np.add.at(dense, (targets[known, 0].numpy(), predicted[known, 0].numpy()), 1)
    np.testing.assert_array_equal(found["many"].toarray(), dense)
    assert task_metrics(found["many"]) == task_metrics(dense)
    pd.testing.assert_frame_equal(per_class(found["many"]), per_class(dense))
    names = [str(k) for k in range(num)]
    pd.testing.assert_frame_equal(
        metrics.largest_confusions(found["many"], names), metrics.largest_confusions(dense, names), check_dtype=False
    )
