import dataclasses
import math

import numpy as np

from fmtl.reports import markdown, run_summary
from fmtl.tasks import make_tasks
from fmtl.training.evaluating import Evaluation
from fmtl.training.run import TrainResult


def result_of(f1):
    """A finished training whose test split gave these macro-F1 by task name; nan: no label."""
    tasks = make_tasks({name: ["x", "y"] for name in f1})
    known = {name: not math.isnan(value) for name, value in f1.items()}
    counts = {name: np.eye(2, dtype=np.int64) * is_known for name, is_known in known.items()}
    probs, targets = dict.fromkeys(f1, np.zeros((0, 2))), dict.fromkeys(f1, np.zeros(0, np.int64))
    return TrainResult([], {}, Evaluation(0.0, {}, counts, probs, targets), tasks, "val/loss")


def test_averages_say_which_tasks_they_leave_out():
    assert run_summary.averaged(result_of({"a": 1.0, "b": 1.0})) == "mean over 2 tasks"
    found = run_summary.averaged(result_of({"a": 1.0, "b": math.nan}))
    assert found == "mean over 1 tasks (without any test label: b)"


def test_names_are_neither_html_nor_markdown():
    assert markdown.text("<img src=x>|a_b*c`\nd") == "&lt;img src=x&gt;\\|a\\_b\\*c\\` d"
    assert len(markdown.text("x" * 500, 48)) == 48
    assert markdown.code("a ``b` c") == "``` a ``b` c ```" and markdown.code("plain") == "`plain`"


def test_only_the_first_of_many_tasks_without_labels_are_named():
    found = run_summary.averaged(result_of({f"t{k}": math.nan for k in range(40)}))
    assert "t5, and 34 more)" in found and "t6" not in found


def test_the_note_says_which_epochs_other_choices_would_have_kept():
    def row(epoch, loss, refined, accuracy, f1):
        scores = {"val/avg/accuracy": accuracy, "val/avg/f1": f1}
        return {"epoch": epoch, "val/loss": loss, "val/refined_loss": refined, **scores}

    rows = [row(1, 1.0, 0.9, 0.5, 0.1), row(2, 2.0, 0.8, 0.6, 0.2), row(3, 3.0, 0.85, 0.7, 0.15)]
    found = dataclasses.replace(result_of({"a": 1.0}), history=rows, best=rows[1], chosen_by="val/refined_loss")
    told = run_summary.of_loaders({"backbone": "b", "mode": "tuned", "weights": "none", "px": 32}, found)
    assert "`loss` epoch 1: 0.500 and 0.100; `refined_loss` epoch 2: 0.600 and 0.200 (the choice of this run)" in told
    assert "`f1` epoch 2: 0.600 and 0.200; `accuracy` epoch 3: 0.700 and 0.150." in told
    assert "(lowest refined validation loss)" in told
