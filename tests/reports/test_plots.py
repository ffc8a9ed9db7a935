import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text

from fmtl.evaluation import curves as score_curves
from fmtl.model.confidence import calibration
from fmtl.reports import plots
from fmtl.reports.plots import style
from fmtl.training import metrics


def case(num_classes, num_images=400, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(num_classes, 0.3), num_images)
    targets = rng.integers(0, max(num_classes - 1, 1), num_images)  # the last class never occurs
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (targets, probs.argmax(1)), 1)
    return probs, targets, confusion, tuple(f"{'class ' * 7}{k}" for k in range(num_classes))


def texts(figure):
    return [t.get_text() for axes in figure.axes for t in (*axes.texts, *axes.get_xticklabels(), axes.title)]


def every_figure(num_classes, names=None):
    probs, targets, confusion, classes = case(num_classes)
    classes = names or classes
    table = metrics.per_class(confusion)
    table.insert(0, "class", list(classes))
    return {
        "confusion": plots.confusion(confusion, classes, title="task"),
        "roc": plots.roc(score_curves.roc(probs, targets, classes), title="task"),
        "precision_recall": plots.precision_recall(
            score_curves.precision_recall(probs, targets, classes), title="task"
        ),
        "reliability": plots.reliability(calibration.calibration(probs, targets), title="task"),
        "per_class": plots.per_class(table, title="task"),
        "curves": plots.curves(
            {name: [0.1, 0.5, 0.4] for name in classes[:30]}, epochs=[1, 2, 3], best_epoch=2, title="t", unit="score"
        ),
    }


@pytest.mark.parametrize("num_classes", [2, 31, 142])
def test_figures_draw_at_every_size_and_nothing_is_cut_or_overlaps(num_classes, tmp_path):
    for name, figure in every_figure(num_classes).items():
        plots.save(tmp_path / f"{name}.png", figure)
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        assert max(figure.get_size_inches()) < 40
        assert cut(figure) == [], name
        assert overlapping(figure) == [], name


def boxes(figure):
    """Text that is seen, and where it is in pixels."""
    renderer = figure.canvas.get_renderer()
    ticks = [tick for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks()]
    ticks += [tick for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_minor_ticks()]
    of_ticks = {id(label) for tick in ticks for label in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(Text) if id(text) not in of_ticks]
    for axes in figure.axes:
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                texts += [tick.label1 for tick in axis._update_ticks() if axis.get_visible()]
    shown = [text for text in texts if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in shown]


def cut(figure):
    width, height = figure.canvas.get_width_height()
    return [
        (text, box.extents.round())
        for text, box in boxes(figure)
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]


def overlapping(figure):
    """Pairs of texts that share more than a sliver."""
    found, every = [], sorted(boxes(figure), key=lambda item: item[1].x0)
    for i, (first, a) in enumerate(every):
        for second, b in every[i + 1 :]:
            if b.x0 > a.x1:
                break
            width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            if width > 2 and height > 0.35 * min(a.height, b.height):
                found.append((first, second))
    return found


NAMES = {
    "japanese": ("ワンピース", "スカート", "靴"),
    "arabic": ("قميص", "حذاء", "حقيبة"),
    "cyrillic": ("Платье", "Юбка", "Обувь"),
    "emoji": ("👗", "👠", "👜"),
}


@pytest.mark.parametrize("script", NAMES)
def test_names_of_any_script_are_drawn_or_numbered(script, tmp_path):
    names = NAMES[script]
    drawable = all(style.is_drawable(name) for name in names)
    assert drawable or script not in ("cyrillic",)
    for name, figure in every_figure(3, names).items():
        plots.save(tmp_path / f"{name}.png", figure)  # a missing glyph would warn
        if name == "confusion":
            shown = [t.get_text() for t in figure.axes[0].get_yticklabels()]
            assert shown == (list(names) if drawable else ["#0", "#1", "#2"])
            assert drawable or "tasks.json" in figure.get_suptitle()


def test_of_a_long_name_both_ends_are_kept():
    first, second = (f"a very long name of a class that ends in {end}" for end in ("red", "blue"))
    short = style.class_names([first, second])
    assert short[0] != short[1] and all(len(name) <= 28 for name in short)
    assert short[1].startswith("a very long name") and short[1].endswith("blue")


def test_drawing_leaves_the_process_s_settings_alone():
    before = mpl.rcParams["font.family"]
    every_figure(2)
    assert mpl.rcParams["font.family"] == before


@pytest.mark.parametrize("num_classes", [2, 31, 142, 900])
def test_a_frame_shows_shares_as_colours(num_classes):
    _, _, counts, classes = case(num_classes)
    counts[0] = 0
    counts[0, 1] = 7
    frames = plots.ConfusionFrames("task", classes)
    first, second = frames.draw(counts, epoch=1), frames.draw(counts.T.copy(), epoch=2)
    assert first.size == second.size and first.size[0] <= 1200
    pixels = np.asarray(first)
    full, none = (np.array(mpl.colormaps["Blues"](v)[:3]) * 255 for v in (1.0, 0.0))
    top, left = plots.frames.HEAD + frames._room, frames._room
    corner = frames.cell // 5
    np.testing.assert_allclose(pixels[top + corner, left + frames.cell + corner], full, atol=1)
    np.testing.assert_allclose(pixels[top + corner, left + corner], none, atol=1)


def test_names_stand_at_their_own_row_and_column():
    frames = plots.ConfusionFrames("t", ["WWWWWWWW", "WWWW", "i"])
    pixels = 255 - np.asarray(frames.draw(np.zeros((3, 3), np.int64), epoch=1)).astype(int).mean(axis=2)
    room, cell, head = frames._room, frames.cell, plots.frames.HEAD
    above = [pixels[head : head + room, room + k * cell : room + (k + 1) * cell].sum() for k in range(3)]
    beside = [pixels[head + room + k * cell : head + room + (k + 1) * cell, :room].sum() for k in range(3)]
    assert above[0] > above[1] > above[2] > 0
    assert beside[0] > beside[1] > beside[2] > 0


def test_more_lines_than_colours_are_all_drawn():
    series = {f"task {i}": [0.1, 0.2] for i in range(23)}
    figure = plots.curves(series, epochs=[1, 2], best_epoch=2, title="t", unit="loss")
    assert len(figure.axes[0].lines) == 24
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == 24


def test_the_counts_shown_are_the_counts():
    counts = np.array([[5, 2, 0], [0, 7, 0], [0, 0, 0]])
    figure = plots.confusion(counts, ("a", "b", "c"), title="t")
    assert sorted(t.get_text() for t in figure.axes[0].texts) == ["2", "5", "7"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["a", "b"]
    assert "1 class without" in figure.get_suptitle()


def test_a_class_without_a_curve_is_named_with_its_reason():
    probs, targets, _, classes = case(4)
    figure = plots.roc(score_curves.roc(probs, targets, classes), title="t")
    assert any("no image of this class" in text for text in texts(figure))


@pytest.mark.parametrize("name", ["$1_$2", "$10-$20", r"a\\$b"])
def test_names_are_never_read_as_mathematics(name, tmp_path):
    counts = np.array([[3, 1], [0, 2]])
    for figure in (
        plots.confusion(counts, (name, "b"), title=name),
        plots.roc(score_curves.roc(np.eye(2), np.array([0, 1]), (name, "b")), title=name),
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


def test_odd_names_are_drawn_and_stay_in_the_legend():
    names = {"_size": [0.1, 0.2], "two\nlines": [0.3, 0.4], "$5$": [0.5, 0.6]}
    figure = plots.curves(names, epochs=[1, 2], best_epoch=2, title="a\nb", unit="score")
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [text.strip().rsplit(" ", 1)[0] for text in shown] == ["_size", "two lines", r"\$5\$"]
    frames = plots.ConfusionFrames("a\nb", ("two\nlines", "_x"))
    assert frames.draw(np.eye(2, dtype=np.int64), epoch=1).size[0] > 100
