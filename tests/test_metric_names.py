import pytest

from fmtl import metric_names
from fmtl.tasks import make_tasks

TASKS = make_tasks({"Men's fit": ["a", "b"], "colour": ["c", "d"]})


def test_an_evaluations_numbers_have_the_names_of_the_contract():
    scores = {name: dict.fromkeys(metric_names.SCORES, 0.5) for name in ("avg", *TASKS.names)}
    named = metric_names.of_split("val", total_loss=2.0, task_losses={"colour": 1.5}, scores=scores, tasks=TASKS)
    expected = {"val/loss", "val/colour/loss"}
    expected |= {f"val/{key}/{s}" for key in ("avg", "Men_s_fit", "colour") for s in metric_names.SCORES}
    assert set(named) == expected
    assert (named["val/loss"], named["val/colour/loss"], named["val/Men_s_fit/f1"]) == (2.0, 1.5, 0.5)


def test_names_are_read_as_they_are_made():
    assert metric_names.score("test", TASKS[0], "f1") == "test/Men_s_fit/f1"
    assert metric_names.score("val", None, "recall") == "val/avg/recall"
    rates = metric_names.learning_rates({"heads": 1.0, "backbone": 0.1})
    assert metric_names.rate_groups(["val/loss", *rates]) == {
        "learning_rate/heads": "heads", "learning_rate/backbone": "backbone",
    }  # fmt: skip
    assert metric_names.test_f1s(["val/a/f1", "test/b/f1", "test/a/f1", "test/a/loss"]) == ["test/a/f1", "test/b/f1"]


@pytest.mark.parametrize(("name", "less_is_better"), [("best/val/loss", True), ("best/val/avg/f1", False)])
def test_of_a_loss_less_is_better(name, less_is_better):
    assert metric_names.is_loss(name) == less_is_better
