"""An exported file says what the model says, of photos of any size, and holds all that this takes."""

import io
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from fmtl.dataset.pixels import images
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import DataError
from fmtl.model import backbones
from fmtl.model.confidence import Confidence
from fmtl.model.execution import Execution
from fmtl.model.exported import Description, ExportedModel
from fmtl.model.exporting import pt2_file, quantizing
from fmtl.model.exporting.onnx_file import OnnxFile
from fmtl.model.labeller import rows_of
from fmtl.model.predictor import Predictor
from fmtl.tasks import make_tasks

TASKS = make_tasks({"Colour": ["red", "green", "blue"], "Größe": ["S", "M"], "Material": ["a", "b"]}, sets={"Material"})
SIZES = [(48, 48), (100, 40), (31, 97), (300, 200), (48, 49)]


def predictor(backbone="test_efficientnet", fit="pad"):
    torch.manual_seed(0)
    spec = backbones.input_spec(backbone)
    net = backbones.build(backbone, TASKS.num_classes, TASKS.sets, weights="none", px=32).eval()
    torch.nn.init.normal_(net.heads.weight)
    net.run_on(torch.device("cpu"), Execution("fp32", channels_last=True))
    net.calibrate({"Colour": 1.7, "Material": 0.8})
    preprocess = Preprocess(48, fit, "#ffffff", 32, spec.mean, spec.std, True)
    confidence = Confidence({"Colour": 1.7, "Material": 0.8}, {"Größe": 0.6}, 0.9)
    return Predictor(net, TASKS, preprocess, torch.device("cpu"), backbone, confidence)


def description(model):
    thresholds = {name: [float(v) for v in values] for name, values in model.thresholds.items()}
    return Description(model.tasks, model.preprocess, thresholds, model.confidence, name="shop", version="3", data="d1")


@pytest.fixture(scope="module")
def model():
    return predictor()


@pytest.fixture(scope="module")
def file(model):
    return OnnxFile(model, description(model))


@pytest.fixture(scope="module")
def content(file):
    return file.content()


def photo(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_it_says_what_the_model_says_of_photos_of_any_size(model, content, size, num):
    pixels = np.stack([photo(*size, seed) for seed in range(num)])
    wanted = model.probs(np.stack([model.decode(png(image)) for image in pixels]))
    found = ExportedModel(content, "x").probs(pixels)
    assert list(found) == TASKS.names
    for name, part in wanted.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], part, atol=2e-6, rtol=0)


def test_it_runs_with_onnxruntime_alone(model, content):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", "H", "W", 3])
    assert [(out.name, out.shape) for out in session.get_outputs()] == [
        ("Colour", ["N", 3]), ("Größe", ["N", 2]), ("Material", ["N", 2]),
    ]  # fmt: skip
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["tasks"]) == TASKS.to_json()
    assert (metadata["data"], metadata["version"]) == ("d1", "3")
    colour = session.run(["Colour"], {"image": photo(90, 60)[None]})[0]
    np.testing.assert_allclose(colour.sum(), 1, atol=1e-6)


def test_its_labels_are_the_models(model, content):
    exported = ExportedModel(content, "x")
    photos = [png(photo(60 + 7 * n, 90 - 5 * n, n)) for n in range(6)] + [b"no photo"]
    wanted, found = model.predict(photos, top_k=2), exported.predict(photos, top_k=2)
    assert found.columns.tolist() == wanted.columns.tolist()
    for column in wanted:
        if column.endswith("confidence"):
            np.testing.assert_allclose(found[column], wanted[column], atol=2e-6)
        else:
            assert found[column].tolist() == wanted[column].tolist(), column
    assert {True, False} >= set(found["Größe/accepted"][:6]) and found["status"].tolist()[-1] == "not_an_image"


def test_rows_are_what_json_knows(content):
    exported = ExportedModel(content, "x")
    (columns,) = exported.column_batches([png(photo(60, 60)), b""], top_k=1, batch_size=8)
    good, bad = rows_of(columns)
    assert good["status"] == "ok" and isinstance(good["Material"], list)
    assert bad == dict.fromkeys(bad, None) | {"status": "empty"}
    assert json.loads(json.dumps([good, bad], allow_nan=False)) == [good, bad]


def test_it_is_the_same_each_time_and_says_nothing_of_this_machine(model, content):
    assert OnnxFile(model, description(model)).content() == content
    archive = pt2_file.build(model, description(model))
    assert pt2_file.build(model, description(model)) == archive
    for place in (b"site-packages", b"fmtl/model", b"/home", b"/tmp", b"Traceback"):
        assert place not in content and place not in archive


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
def test_an_archive_says_the_same_in_torch(fit):
    model = predictor(fit=fit)
    module, metadata = pt2_file.load(pt2_file.build(model, description(model)))
    assert Description.from_metadata(metadata, "x") == description(model)
    for size in SIZES:
        pixels = photo(*size)
        wanted = model.probs(model.decode(png(pixels))[None])
        found = module(torch.from_numpy(np.stack([pixels, pixels])))
        for task in TASKS:
            np.testing.assert_allclose(found[task.slug][1].numpy(), wanted[task.name][0], atol=2e-6)


def test_attributes_may_be_called_as_values_of_a_graph_are():
    names = ["size", "square", "same", "relu", "linear", "is_square", "conv2d"]
    tasks = make_tasks({name: ["a", "b"] for name in names})
    net = backbones.build("test_resnet", tasks.num_classes, weights="none", px=32).eval()
    how = Preprocess(40, "pad", "#ffffff", 32, (0.5,) * 3, (0.5,) * 3, True)
    model = Predictor(net, tasks, how, torch.device("cpu"), "test_resnet")
    found = ExportedModel(OnnxFile(model, Description(tasks, how)).content(), "x").probs(photo(60, 50)[None])
    wanted = model.probs(model.decode(png(photo(60, 50)))[None])
    for name in names:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet"])
def test_other_kinds_of_networks(backbone):
    model = predictor(backbone, fit="stretch")
    exported = ExportedModel(OnnxFile(model, description(model)).content(), "x")
    pixels = photo(150, 70)
    wanted = model.probs(model.decode(png(pixels))[None])
    for name, part in exported.probs(pixels[None]).items():
        np.testing.assert_allclose(part, wanted[name], atol=1e-5)


def test_eight_bits_stay_near_and_take_less(model, file, content):
    rng = np.random.default_rng(0)
    batches = [np.stack([model.decode(png(photo(80, 60, int(s)))) for s in rng.integers(0, 999, 8)]) for _ in range(3)]
    fewer = file.content(quantizing.quantized(file.answers, iter(batches), 2))
    found, wanted = ExportedModel(fewer, "x").probs(batches[0]), ExportedModel(content, "x").probs(batches[0])
    assert len(fewer) < 0.6 * len(content)
    kinds = {node.op_type for node in onnx.load_model_from_string(fewer).graph.node}
    assert "QuantizeLinear" in kinds
    for name, part in wanted.items():
        assert 0 < np.abs(found[name] - part).max() < 0.3


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda content: content[: len(content) // 2], "onnxruntime can't load it"),
        (lambda content: b"", "onnxruntime can't load it"),
        (lambda content: content.replace(b"fmtl-onnx-1", b"fmtl-onnx-9"), "not a file of fmtl export"),
        (lambda content: content.replace(b'"slug": "Colour"', b'"slug": "Golour"'), "its outputs are not those"),
        (lambda content: content.replace(b'"fit": "pad"', b'"fit": "bad"'), "preprocess"),
    ],
)
def test_what_is_none_or_damaged_is_said(content, damage, told):
    with pytest.raises(DataError, match=told):
        ExportedModel(damage(content), "x.onnx")


def test_a_strangers_file_is_refused():
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    strange = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    with pytest.raises(DataError, match="not a file of fmtl export"):
        ExportedModel(strange.SerializeToString(), "x.onnx")


def kinds():
    """Photos as files of many kinds, by name: their bytes."""
    rgb = Image.fromarray(photo(90, 61))
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.fromarray(photo(90, 61, 5)[..., 0]))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    files = {
        "rotated.jpg": (rgb, "JPEG", {"exif": exif, "quality": 95}),
        "cmyk.jpg": (rgb.convert("CMYK"), "JPEG", {"quality": 95}),
        "grey.jpg": (rgb.convert("L"), "JPEG", {"quality": 95}),
        "alpha.png": (alpha, "PNG", {}),
        "palette.png": (rgb.convert("P"), "PNG", {}),
        "sixteen.png": (Image.fromarray(photo(90, 61)[..., 0].astype(np.uint16) * 257), "PNG", {}),
        "odd.webp": (Image.fromarray(photo(87, 53)), "WEBP", {"lossless": True}),
    }
    found = {}
    for name, (image, form, options) in files.items():
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        found[name] = buffer.getvalue()
    return found


@pytest.mark.parametrize("name", list(kinds()))
def test_photos_of_every_kind_are_told_alike(model, content, name):
    """From the bytes, and from RGB of the photo's own size, which the file fits itself."""
    exported, raw = ExportedModel(content, "x"), kinds()[name]
    wanted = model.predict([raw])
    assert wanted["status"].tolist() == ["ok"]
    found = exported.predict([raw])
    for column in wanted:
        if column.endswith("confidence"):
            np.testing.assert_allclose(found[column], wanted[column], atol=2e-6)
        else:
            assert found[column].tolist() == wanted[column].tolist()
    rgb = images.full_size(raw, background="#ffffff", profiles=True)
    assert rgb.shape[:2] == ((61, 90) if name == "rotated.jpg" else (87, 53) if name == "odd.webp" else (90, 61))
    square = images.fitted(rgb, px=48, fit="pad", background="#ffffff")
    for task, part in model.probs(square[None]).items():
        np.testing.assert_allclose(exported.probs(rgb[None])[task], part, atol=2e-6)
