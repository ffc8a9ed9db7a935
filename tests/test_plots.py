import numpy as np
import pytest

from fmtl import metrics, plots


def case(num_classes, num_images=400, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(num_classes, 0.3), num_images)
    targets = rng.integers(0, max(num_classes - 1, 1), num_images)  # the last class never occurs
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (targets, probs.argmax(1)), 1)
    return probs, targets, confusion, tuple(f"{'class ' * 7}{k}" for k in range(num_classes))


def texts(figure):
    return [t.get_text() for axes in figure.axes for t in (*axes.texts, *axes.get_xticklabels(), axes.title)]


@pytest.mark.parametrize("num_classes", [2, 31, 142])
def test_figures_draw_at_every_size_and_stay_within_bounds(num_classes, tmp_path):
    probs, targets, confusion, classes = case(num_classes)
    figures = {
        "confusion": plots.confusion(confusion, classes, title="task"),
        "roc": plots.roc(metrics.roc(probs, targets, classes), title="task"),
    }
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        assert max(figure.get_size_inches()) < 36


def test_the_counts_shown_are_the_counts():
    counts = np.array([[5, 2, 0], [0, 7, 0], [0, 0, 0]])
    figure = plots.confusion(counts, ("a", "b", "c"), title="t")
    assert sorted(t.get_text() for t in figure.axes[0].texts) == ["2", "5", "7"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["a", "b"]
    assert "1 class without" in figure.get_suptitle()


def test_a_class_without_a_curve_is_named_with_its_reason():
    probs, targets, _, classes = case(4)
    figure = plots.roc(metrics.roc(probs, targets, classes), title="t")
    assert any("no image of this class" in text for text in texts(figure))


@pytest.mark.parametrize("name", ["$1_$2", "$10-$20", r"a\\$b"])
def test_names_are_never_read_as_mathematics(name, tmp_path):
    counts = np.array([[3, 1], [0, 2]])
    for figure in (
        plots.confusion(counts, (name, "b"), title=name),
        plots.roc(metrics.roc(np.eye(2), np.array([0, 1]), (name, "b")), title=name),
        plots.ranking([name, "b"], [0.5, 0.4], title="t", unit="f1"),
    ):
        figure.savefig(tmp_path / "x.png")


def test_curves_mark_the_best_epoch_with_its_values():
    series = {"accuracy": [0.1, 0.9, 0.5], "F1": [0.2, 0.8, 0.4]}
    figure = plots.curves(series, epochs=[1, 2, 3], best_epoch=2, title="t", unit="score")
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["accuracy 0.900", "F1 0.800"]
    assert list(axes.lines[0].get_ydata()) == series["accuracy"]
    assert axes.lines[-1].get_xdata()[0] == 2


def test_one_epoch_is_enough_for_a_plot(tmp_path):
    figure = plots.curves({"train": [1.0]}, epochs=[1], best_epoch=1, title="t", unit="loss")
    figure.savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5000
