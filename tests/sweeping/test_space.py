"""A sweep's file: what it varies, and what is wrong with it, before the first trial."""

import pytest

from fmtl.errors import UsageError
from fmtl.settings.reading import Given
from fmtl.settings.space import Choice, Range, read


def of(tmp_path, text, **options):
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    return read(file, {name: Given(value, f"--{name}") for name, value in options.items()})


def test_lists_are_choices_and_mappings_are_ranges(tmp_path):
    settings, space = of(
        tmp_path,
        "data: d\nepochs: 3\nbackbone: [resnet18, resnet50]\nlearning_rate: {low: 1e-4, high: 1e-2, log: true}\n"
        "batch_size: {low: 8, high: 32, step: 8}\naugment: [true, false]\nseed: [3, 4]\ntrials: 7\ntime_limit: 2h\n"
        "colour_tasks: [Colour, Kolor]\n",
    )
    assert (settings.trials, settings.time_limit, space.seeds) == (7, 7200, (3, 4))
    assert space.choices == (Choice("backbone", ("resnet18", "resnet50")), Choice("augment", ("true", "false")))
    assert space.ranges == (
        Range("learning_rate", 1e-4, 1e-2, log=True),
        Range("batch_size", 8, 32, step=8, is_int=False),  # auto is one of its values, and 16 is read of 16.0
    ) or space.ranges[1] == Range("batch_size", 8, 32, step=8, is_int=True)
    made = space.settings({"backbone": "resnet50", "learning_rate": 0.005}, seed=4, name="t")
    assert (made.backbone, made.learning_rate, made.seed, made.epochs) == ("resnet50", 0.005, 4, 3)
    assert made.colour_tasks == ("Colour", "Kolor")


def test_options_win_over_the_file(tmp_path):
    settings, _ = of(tmp_path, "seed: [0, 1]\ntrials: 7\n", trials="9")
    assert settings.trials == 9


def test_a_grid_is_every_combination(tmp_path):
    _, space = of(tmp_path, "class_weights: [0, 0.5]\nlabel_smoothing: [0, 0.1, 0.2]\nseed: [0, 1]\n")
    rows = space.grid()
    assert len(rows) == 6 and rows[1] == {"class_weights": "0", "label_smoothing": "0.1"}
    assert len({tuple(row.items()) for row in rows}) == 6


def test_what_training_has_by_itself_is_known_where_the_space_has_it(tmp_path):
    _, space = of(
        tmp_path,
        "class_weights: [0.5, 0]\nlabel_smoothing: [0.1, 0.2]\nlearning_rate: {low: 1e-3, high: 1e-2}\n"
        "clip_norm: {low: 2, high: 3}\nmode: [baseline, tuned]\ntrials: 3\n",
    )
    assert space.defaults() == {"class_weights": "0", "learning_rate": 3e-3, "mode": "tuned"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: d\n", "nothing differs"),
        ("class_weights: [0, 7]\n", "class_weights: expected less than or equal to 1, got '7'"),
        ("learning_rate: {low: 1e-4, high: -1}\n", "learning_rate: expected {low: NUMBER, high: NUMBER}"),
        ("learning_rate: {low: 0, high: 1, log: true}\n", "learning_rate: expected {low"),
        ("class_weights: {low: 0, high: 3}\n", "class_weights: expected less than or equal to 1, got '3.0'"),
        ("backbone: {low: 0, high: 3}\n", "backbone: no number"),
        ("learning_rate: {low: 0.1, high: 1, steps: 3}\n", "learning_rate: expected {low"),
        ("clas_weights: [0, 1]\n", "did you mean 'class_weights'"),
        ("class_weights: [0, 0]\n", "expected values, each once"),
        ("data: [a, b]\n", "data: one value for all trials"),
        ("seed: [0, x]\n", "seed: expected"),
        ("resume: last\nseed: [0, 1]\n", "resume: not for a sweep"),
        ("seed: [0, 1]\ntrials: 0\n", "trials: expected"),
        ("variants: [{seed: 1}]\nseed: [0, 1]\n", "variants"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_trial(tmp_path, text, said):
    with pytest.raises(UsageError) as found:
        of(tmp_path, text)
    assert said in str(found.value)


def test_all_problems_are_named_at_once(tmp_path):
    with pytest.raises(UsageError) as found:
        of(tmp_path, "class_weights: [0, 7]\nlabel_smoothing: [2]\nnope: [1]\ndata: [a]\n")
    assert all(word in str(found.value) for word in ("'7'", "'2'", "nope", "data: one value"))


def test_a_range_has_no_grid(tmp_path):
    _, space = of(tmp_path, "learning_rate: {low: 1e-4, high: 1}\n")
    with pytest.raises(UsageError, match="trials: give how many"):
        space.grid()
