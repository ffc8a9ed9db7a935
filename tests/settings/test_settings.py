import pytest

from fmtl.errors import UsageError
from fmtl.settings import wording
from fmtl.settings.reading import Given, build, build_from_file, to_yaml
from fmtl.settings.schema import PrepareSettings
from fmtl.settings.train import TrainSettings


def from_yaml(tmp_path, text, kind=TrainSettings, given=None):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return build_from_file(kind, given or {}, path)


def problems(tmp_path, text, kind=TrainSettings):
    with pytest.raises(UsageError) as caught:
        from_yaml(tmp_path, text, kind)
    return str(caught.value)


def test_numbers_are_read_as_people_write_them(tmp_path):
    (settings,) = from_yaml(tmp_path, "learning_rate: 1e-4\nepochs: 3\nfreeze: yes\naugment: false\n")
    assert (settings.learning_rate, settings.epochs, settings.freeze, settings.augment) == (1e-4, 3, True, False)


def test_text_stays_text(tmp_path):
    (settings,) = from_yaml(tmp_path, "table: 010\nmissing: [no, 12:30, ~]\n", PrepareSettings)
    assert settings.table == "010"
    assert settings.missing == ("no", "12:30", "~")


def test_all_problems_come_in_one_error_with_their_lines(tmp_path):
    text = "# a recipe\nleraning_rate: 1\nepochs: many\nbatch_size: 0\nmode: tunned\nbackbone: {a: 1}\n"
    message = problems(tmp_path, text)
    assert "c.yaml line 2: unknown setting 'leraning_rate'; did you mean 'learning_rate'?" in message
    assert "c.yaml line 3: epochs: expected a valid integer, got 'many'" in message
    assert "c.yaml line 4: batch_size: expected greater than or equal to 2, got '0'" in message
    assert "c.yaml line 5: mode: expected 'tuned' or 'baseline', got 'tunned'" in message


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "0", "1e9"])
def test_a_rate_out_of_range_is_refused(tmp_path, value):
    assert "line 1: learning_rate: expected" in problems(tmp_path, f"learning_rate: {value}\n")


def test_a_repeated_key_is_an_error_that_names_both_lines(tmp_path):
    message = problems(tmp_path, "epochs: 3\nmode: tuned\nepochs: 4\n")
    assert "c.yaml line 3: 'epochs' is given twice, first on line 1" in message.replace("  ", " ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "line 2"),
        ("- 1\n", "expected 'name: value' lines"),
        ("epochs: !!python/object/apply:os.system [id]\n", "line 1: the tag .* is not allowed"),
        ("a: &x 1\nb: *x\n", "line 2: an alias is not allowed"),
        ("a: \x07\n", "special characters"),
        ("variants: 3\n", "line 1: variants: expected a list of mappings"),
    ],
)
def test_what_is_no_config_is_refused_with_the_line(tmp_path, text, message):
    import re

    assert re.search(message, problems(tmp_path, text))


def test_variants_override_the_base_and_options_override_both(tmp_path):
    text = "epochs: 5\npx: 64\nvariants:\n  - backbone: resnet50\n  - {backbone: vit_b_16, epochs: 9}\n"
    settings = from_yaml(tmp_path, text, given={"px": Given("96", "--px")})
    assert [(s.backbone, s.epochs, s.px) for s in settings] == [("resnet50", 5, 96), ("vit_b_16", 9, 96)]


def test_problems_of_all_variants_and_of_the_form_come_together(tmp_path):
    text = "epochs: 5\nepochs: 6\nvariants:\n  - mode: x\n  - {px: 1}\n  - lr: 1\n"
    message = problems(tmp_path, text)
    for part in ("'epochs' is given twice", "line 4: mode", "line 5: px", "line 6: unknown setting 'lr'"):
        assert part in message


def test_modes_are_the_notebooks():
    tuned, baseline = (TrainSettings(mode=mode).with_mode() for mode in ("tuned", "baseline"))
    assert (tuned.optimizer, tuned.weight_decay, tuned.backbone_lr_scale) == ("adamw", 1e-4, 0.1)
    assert (tuned.schedule, tuned.clip_norm) == ("onecycle", 1.0)
    assert (baseline.optimizer, baseline.weight_decay, baseline.backbone_lr_scale) == ("adam", 0.0, 1.0)
    assert (baseline.schedule, baseline.clip_norm) == ("constant", 0.0)


def test_what_is_given_wins_over_the_mode():
    settings = TrainSettings(mode="baseline", clip_norm=0.5, weight_decay=0.1).with_mode()
    assert (settings.clip_norm, settings.weight_decay, settings.schedule) == (0.5, 0.1, "constant")


def test_an_objective_weighs_tuned_alone_and_less_than_what_is_given():
    f1, accuracy, both = (TrainSettings(objective=what).with_mode() for what in ("f1", "accuracy", "both"))
    assert f1.class_weights > accuracy.class_weights == 0
    assert accuracy.class_weights <= both.class_weights <= f1.class_weights
    assert (f1.choose_by, accuracy.choose_by, both.choose_by) == ("f1", "accuracy", "refined_loss")
    with pytest.raises(UsageError, match="objective: mode=baseline is the same"):
        TrainSettings(objective="f1", mode="baseline").with_mode()
    assert TrainSettings(objective="f1", choose_by="loss").with_mode().choose_by == "loss"


def test_settings_survive_their_own_yaml(tmp_path):
    settings = TrainSettings(learning_rate=3e-5, px=96, mode="baseline", weights="none").with_mode()
    assert from_yaml(tmp_path, to_yaml(settings.model_dump(mode="json"))) == [settings]


def test_fractions_must_leave_something_for_training():
    with pytest.raises(UsageError, match="a sum below 1"):
        build(PrepareSettings, {"table": Given("t", "--table"), "val_fraction": Given("0.6", "--val-fraction"),
                                "test_fraction": Given("0.4", "--test-fraction")})  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"epochs": 3, "freeze_epochs": 3}, "freeze_epochs: expected fewer than the 3 epochs, got 3"),
        ({"freeze": True, "freeze_epochs": 2}, "freeze, freeze_epochs: give one"),
    ],
)
def test_frozen_epochs_that_leave_none_for_the_backbone_are_refused(chosen, message):
    with pytest.raises(UsageError, match=message):
        build(TrainSettings, {name: Given(value, name) for name, value in chosen.items()})


def test_an_option_is_named_as_it_was_typed():
    with pytest.raises(UsageError, match="--epochs: expected a valid integer, got 'x'"):
        build(TrainSettings, {"epochs": Given("x", "--epochs")})


def test_a_missing_requirement_is_named():
    with pytest.raises(UsageError, match="table: required, not given"):
        build(PrepareSettings, {})


def test_a_plan_is_what_the_settings_say_with_nothing_left_open():
    plan = TrainSettings(backbone="resnet18", freeze_epochs=2, epochs=5, mixup=0.2).resolve(["Colour", "Usage"], px=96)
    assert (plan.network.backbone, plan.network.px, plan.recipe.mixup, plan.frozen_epochs) == ("resnet18", 96, 0.2, 2)
    assert (plan.recipe.learning_rate, plan.loss.label_smoothing, plan.loss.class_weights) == (3e-3, 0.0, 0.0)
    assert plan.augmentation.keep_hue and plan.augmentation.keep_colour  # there is a colour to be learnt
    assert {(way.precision, way.channels_last) for way in plan.ways} == {
        (precision, last) for precision in ("fp32", "bf16") for last in (True, False)
    }
    assert (plan.stage_recipe(frozen=True).epochs, plan.stage_recipe(frozen=False).epochs) == (2, 3)
    baseline = TrainSettings(mode="baseline", precision="bf16", channels_last=False).resolve(["Usage"], px=96)
    assert baseline.augmentation is None and len(baseline.ways) == 1


def test_a_plan_refuses_tasks_that_there_are_not():
    for wrong in ({"task_weights": "Color=2"}, {"colour_tasks": ("Color",)}):
        with pytest.raises(UsageError, match="there is no task 'Color'; did you mean 'Colour'?"):
            TrainSettings(**wrong).resolve(["Colour", "Usage"], px=96)
    weighed = TrainSettings(task_weights="Colour=2, Usage=0.5").resolve(["Colour", "Usage"], px=96)
    assert weighed.loss.task_weights == {"Colour": 2.0, "Usage": 0.5}


def test_patience_is_for_the_epochs_that_come_last():
    plan = TrainSettings(epochs=5, freeze_epochs=2, patience=3).resolve(["a"], px=32)
    assert (plan.stage_recipe(frozen=True).patience, plan.stage_recipe(frozen=False).patience) == (0, 3)
    frozen = TrainSettings(epochs=5, freeze=True, patience=3).resolve(["a"], px=32)
    assert frozen.stage_recipe(frozen=True).patience == 3


def test_what_to_prepare_is_the_settings_by_their_names():
    settings = PrepareSettings(table="t.csv", label_cols=("a", "b"), px=64)
    plan = settings.resolve()
    assert {name: getattr(plan, name) for name in PrepareSettings.model_fields} == settings.model_dump()
    remembered = plan.remembered()
    assert remembered["label_cols"] == ["a", "b"] and not {"table", "images", "out", "reuse", "workers"} & set(
        remembered
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (0.1, "0.1"),
        (1.0, "1"),
        (1e-12, "1e-12"),
        (0.1234567891, "0.1234567891"),
        (("a", "b"), "a,b"),
        (7, "7"),
    ],
)
def test_a_value_as_text_is_read_back(value, text):
    assert wording.as_text(value) == text


def test_a_command_names_what_differs_from_the_defaults():
    defaults = TrainSettings().with_mode().model_dump()
    chosen = TrainSettings(backbone="resnet18", data="my photos", task_weights="A=2,B=3", rotation=0).with_mode()
    command = wording.command_line("train", chosen.model_dump(), defaults)
    assert command == "fmtl train --data 'my photos' --backbone resnet18 --task-weights A=2,B=3 --rotation 0"
