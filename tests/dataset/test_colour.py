"""Colours as they were meant: against littleCMS's own result; and formats of telephones."""

import io
import json

import icc
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms

from fmtl.catalogue.photos.folder import ImageError
from fmtl.commands.predict import predict
from fmtl.commands.prepare import build_dataset
from fmtl.dataset.pixels import colour, images
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.model import backbones, predictor
from fmtl.settings.schema import PredictSettings, PrepareSettings
from fmtl.tasks import make_tasks

PX = 48
SRGB = ImageCms.createProfile("sRGB")
PROFILES = {
    "Adobe RGB": ("RGB", icc.ADOBE_RGB),
    "Display P3": ("RGB", icc.DISPLAY_P3),
    "grey, gamma 1": ("L", icc.grey(1.0)),
    "grey, gamma 1.8": ("L", icc.grey(1.8)),
    "CMYK": ("CMYK", icc.cmyk()),
}


def gradient(mode):
    across, down = np.meshgrid(np.linspace(0, 255, PX), np.linspace(0, 255, PX))
    bands = [across, down, 255 - across, (across + down) / 4][: len(Image.new(mode, (1, 1)).getbands())]
    pixels = np.stack(bands, axis=-1).round().astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def littlecms(image, profile):
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return np.asarray(ImageCms.profileToProfile(image, source, SRGB, outputMode="RGB")).astype(int)


@pytest.mark.parametrize("name", PROFILES)
def test_pixels_of_a_profile_are_what_littlecms_makes_of_them(name):
    mode, profile = PROFILES[name]
    content = saved(gradient(mode), "TIFF", icc_profile=profile)
    want = littlecms(gradient(mode), profile)
    out = np.empty((PX, PX, 3), np.uint8)
    facts = images.decode_into(out, content, fit="pad", background="#ffffff", profiles=True)
    assert np.abs(out.astype(int) - want).max() <= 1
    assert "profile" in facts.notes
    plain = images.decode(content, px=PX, profiles=False).astype(int)
    assert np.abs(plain - want).max() > 5  # it matters
    assert (plain == np.asarray(gradient(mode).convert("RGB"))).all()


@pytest.mark.parametrize("name", PROFILES)
def test_jpegs_are_converted_after_they_were_scaled(name):
    mode, profile = PROFILES[name]
    content = saved(gradient(mode), "JPEG", quality=95, icc_profile=profile)
    found = images.decode(content, px=PX).astype(int)
    with Image.open(io.BytesIO(content)) as image:
        assert np.abs(found - littlecms(image, profile)).mean() < 1
    if mode != "CMYK":
        plain = images.decode(content, px=PX, profiles=False)
        image = Image.fromarray(plain).convert(mode)
        assert np.abs(found - littlecms(image, profile)).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_srgb_and_profiles_of_other_pixels_change_nothing(mode):
    image = gradient("RGB").convert(mode)
    plain = images.decode(saved(image, "PNG"), px=PX)
    own = ImageCms.ImageCmsProfile(SRGB).tobytes()
    for profile in (own, icc.cmyk(), b"no profile", icc.ADOBE_RGB[:200]):
        if mode == "L" and profile == own:
            continue  # a profile of three bands, which Pillow does not write
        out = np.empty((PX, PX, 3), np.uint8)
        facts = images.decode_into(
            out, saved(image, "PNG", icc_profile=profile), fit="pad", background="#ffffff", profiles=True
        )
        assert (out == plain).all() and "profile" not in facts.notes


def test_transparency_is_kept_beside_a_profile():
    image = gradient("RGB")
    image.putalpha(Image.linear_gradient("L").resize((PX, PX)))
    found = images.decode(saved(image, "PNG", icc_profile=icc.ADOBE_RGB), px=PX, background="#ff0000").astype(int)
    layer = Image.fromarray(littlecms(gradient("RGB"), icc.ADOBE_RGB).astype(np.uint8))
    layer.putalpha(image.getchannel("A"))
    want = Image.alpha_composite(Image.new("RGBA", layer.size, "#ff0000"), layer).convert("RGB")
    assert np.abs(found - np.asarray(want).astype(int)).max() <= 1


def test_a_transform_is_made_once():
    colour.to_srgb.cache_clear()
    content = saved(gradient("RGB"), "PNG", icc_profile=icc.DISPLAY_P3)
    for _ in range(3):
        images.decode(content, px=PX)
    assert colour.to_srgb.cache_info().misses == 1


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for n in range(12):
        image = Image.fromarray(rng.integers(0, 256, (PX, PX, 3), np.uint8))
        options = {"icc_profile": icc.ADOBE_RGB} if n < 5 else {}
        image.save(tmp_path / "images" / f"{n}.png", **options)
    rows = "".join(f"{n},{n}.png,{['red', 'blue'][n % 2]}\n" for n in range(12))
    (tmp_path / "t.csv").write_text(f"id,image,colour\n{rows}")
    return tmp_path


def test_prepare_counts_them(shop):
    dataset, _ = build_dataset(PrepareSettings(table=str(shop / "t.csv"), out=str(shop / "out"), px=PX))
    assert dataset.manifest["counts"]["image_notes"]["profile"] == 5
    assert "5 images had colours of another profile than sRGB and were converted" in dataset.manifest["notes"]
    assert dataset.manifest["image"]["profiles"] is True


@pytest.mark.parametrize("profiles", [True, False])
def test_predict_does_what_the_models_preprocessing_says_and_counts_them(store, shop, capsys, profiles):
    tasks = make_tasks({"colour": ["red", "blue"]})
    net = backbones.build("resnet18", tasks.num_classes, weights="none", px=PX)
    preprocess = Preprocess(PX, "pad", "#ffffff", PX, (0.5,) * 3, (0.5,) * 3, profiles)
    predictor.save(shop / "model", net, backbone="resnet18", tasks=tasks, preprocess=preprocess)
    if not profiles:  # a model of before
        description = json.loads((shop / "model" / "model.json").read_text())
        del description["preprocess"]["profiles"], description["sha256"]
        (shop / "model" / "model.json").write_text(json.dumps(description))
    predict(PredictSettings(model=str(shop / "model"), images=str(shop / "images"), out=str(shop / "p.csv")))
    assert ("5 photos had colours of another profile" in capsys.readouterr().out) is profiles
    loaded = predictor.load(shop / "model")
    content = (shop / "images" / "0.png").read_bytes()
    assert (loaded.decode(content) == images.decode(content, px=PX, profiles=profiles)).all()


def test_a_half_zeroed_jpeg_is_truncated_though_its_metadata_holds_a_whole_thumbnail():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (200, 150, 3), np.uint8))
    thumbnail = saved(image.resize((16, 16)), "JPEG")
    exif = Image.Exif()
    exif[0x010E] = "x"
    metadata = b"Exif\0\0" + exif.tobytes()[6:] + thumbnail
    content = saved(image, "JPEG", exif=metadata)
    assert content.count(b"\xff\xd9") == 2
    assert images.decode(content, px=PX).shape == (PX, PX, 3)
    half = content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    with pytest.raises(ImageError, match="truncated: no end marker"):
        images.decode(half, px=PX)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_photos_of_telephones_are_read(kind, tmp_path):
    if kind == "HEIF":
        heif = pytest.importorskip("pillow_heif")
        file = heif.from_pillow(gradient("RGB"))
        buffer = io.BytesIO()
        file.save(buffer, quality=95)
        content = buffer.getvalue()
    else:
        content = saved(gradient("RGB"), kind, quality=95)
    out = np.empty((PX, PX, 3), np.uint8)
    facts = images.decode_into(out, content, fit="pad", background="#ffffff", profiles=True)
    assert facts.format == kind and np.abs(out.astype(int) - np.asarray(gradient("RGB")).astype(int)).mean() < 4
    with pytest.raises(ImageError):
        images.decode(content[: len(content) // 2], px=PX)
    (tmp_path / "images").mkdir()
    suffix = {"AVIF": "avif", "HEIF": "heic"}[kind]
    for n in range(8):
        (tmp_path / "images" / f"{n}.{suffix}").write_bytes(content)
    pd.DataFrame({"image": [f"{n}.{suffix}" for n in range(8)], "colour": ["red", "blue"] * 4}).to_csv(
        tmp_path / "t.csv", index=False
    )
    dataset, _ = build_dataset(PrepareSettings(table=str(tmp_path / "t.csv"), out=str(tmp_path / "out"), px=PX))
    assert len(dataset.table) == 8 and "wrong_suffix" not in dataset.manifest["counts"]["image_notes"]


def test_bytes_of_filling_before_a_marker_are_no_sign_of_damage():
    content = saved(gradient("RGB"), "JPEG", quality=95)
    filled = content[:2] + b"\xff" + content[2:]
    assert (images.decode(filled, px=PX) == images.decode(content, px=PX)).all()


def test_a_transparent_colour_is_kept_beside_a_profile():
    image = Image.new("RGB", (PX, PX), (0, 0, 0))
    content = saved(image, "PNG", transparency=(0, 0, 0), icc_profile=icc.ADOBE_RGB)
    assert (images.decode(content, px=PX, background="#ffffff") == 255).all()
