import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

from fmtl.catalogue.photos.folder import ImageError, ImageFolder
from fmtl.dataset.pixels.images import decode, quiet


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width=40, height=60):
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def test_padding_keeps_the_whole_image_on_the_background():
    red = Image.new("RGB", (20, 40), (200, 0, 0))
    pixels = decode(encode(red), px=40, background="#ffffff")
    assert pixels.shape == (40, 40, 3)
    assert (pixels[:, :10] == 255).all() and (pixels[:, 30:] == 255).all()
    assert (pixels[:, 10:30] == [200, 0, 0]).all()


@pytest.mark.parametrize(("fit", "left"), [("crop", 200), ("stretch", 200), ("pad", 255)])
def test_fits(fit, left):
    red = Image.new("RGB", (20, 40), (200, 0, 0))
    assert decode(encode(red), px=40, fit=fit)[20, 0, 0] == left


def test_large_jpegs_decoded_at_a_reduced_scale_look_the_same():
    yy, xx = np.mgrid[0:1200, 0:900] / 100
    wave = np.stack([np.sin(xx), np.cos(yy), np.sin(xx + yy)], axis=-1) * 100 + 128
    image = Image.fromarray(wave.astype(np.uint8))
    full = np.asarray(image.resize((96, 128), Image.Resampling.BILINEAR), dtype=float)
    ours = decode(encode(image, "JPEG", quality=95), px=128)[:, 16:112].astype(float)
    assert np.abs(full - ours).mean() < 1.5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_every_mode_becomes_rgb_with_the_same_brightness(mode):
    grey = Image.new("L", (30, 30), 128)
    if mode == "1":
        image, want = Image.new("1", (30, 30), 1), 255
    elif mode == "I;16":
        image, want = Image.fromarray(np.full((30, 30), 128 * 257, np.uint16)), 128
    elif mode == "I":
        image, want = Image.fromarray(np.full((30, 30), 128 * 257, np.int32)), 128
    elif mode == "P":
        image, want = grey.convert("RGB").quantize(4), 128
    else:
        image, want = grey.convert("RGB").convert(mode), 128
    pixels = decode(encode(image, "TIFF" if mode in ("CMYK", "I") else "PNG"), px=32)
    assert np.abs(pixels.astype(int) - want).max() <= 1


def test_transparency_is_laid_on_the_background():
    clear = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    assert (decode(encode(clear), px=16, background="#00ff00") == [0, 255, 0]).all()


def test_exif_orientations_give_the_same_pixels():
    upright = photo(48, 48)
    want = decode(encode(upright), px=48)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    for orientation, transpose in undo.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encode(upright.transpose(transpose), exif=exif)
        assert (decode(content, px=48) == want).all(), orientation


def test_the_first_frame_is_taken():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(content, px=20)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 0.999])
def test_a_truncated_jpeg_is_refused(share):
    content = encode(photo(200, 200), "JPEG")
    with pytest.raises(ImageError) as caught:
        decode(content[: int(len(content) * share)], px=32)
    assert caught.value.reason == "truncated"


def test_no_damage_to_a_file_escapes_as_another_error():
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, options in (("JPEG", {"exif": exif}), ("PNG", {}), ("WEBP", {}), ("GIF", {}), ("TIFF", {}), ("BMP", {})):
        good = encode(photo(24, 24), kind, **options)
        for _ in range(400):
            bad = bytearray(good)
            for at in rng.integers(0, min(len(bad), 400), rng.integers(1, 6)):
                bad[at] = rng.integers(256)
            try:
                with quiet():
                    pixels = decode(bytes(bad), px=16)
            except ImageError:
                continue
            assert pixels.shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (b"", "empty", "0 bytes"),
        (b"<!DOCTYPE html><html>404", "not_an_image", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not_an_image", "git-lfs"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "format", "PostScript"),
    ],
)
def test_what_is_no_image_is_named(content, reason, detail):
    with pytest.raises(ImageError, match=detail) as caught:
        decode(content, px=32)
    assert caught.value.reason == reason


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr("fmtl.dataset.pixels.limits.MAX_PIXELS_ELSE", 99)
    with pytest.raises(ImageError, match="too_large"):
        decode(encode(photo(10, 10)), px=32)


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/etc/passwd", "a/../../secret.png", "http://x/y.png", "file:///etc/passwd", "link.png",
     "C:\\x.png", "\\\\host\\share\\x.png", "..\\secret.png", "linked/secret.png", "a\0.png"],
)  # fmt: skip
def test_nothing_outside_the_root_is_opened(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(encode(photo()))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "linked").symlink_to(tmp_path)
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    with pytest.raises(ImageError) as caught:
        ImageFolder(root).read(name)
    assert caught.value.reason == "outside_root"
    assert not [path for path in opened if "secret" in path or "passwd" in path]


def test_files_are_found_below_links_inside_the_root_and_by_windows_paths(tmp_path):
    (tmp_path / "men").mkdir()
    (tmp_path / "men" / "a.png").write_bytes(b"a")
    (tmp_path / "all").symlink_to(tmp_path / "men")
    (tmp_path / "b.png").symlink_to("men/a.png")
    folder = ImageFolder(tmp_path)
    assert [folder.read(name)[0] for name in ("men/a.png", "men\\a.png", "all/a.png", "b.png")] == [b"a"] * 4


def test_missing_files_and_loops_of_links_are_missing(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    for name in ("a.png", "none.png", "none/a.png", "x" * 300, "a.png/b"):
        with pytest.raises(ImageError) as caught:
            ImageFolder(tmp_path).read(name)
        assert caught.value.reason == "missing"


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    for name, reason in (("folder.jpg", "not_regular_file"), ("pipe.jpg", "not_regular_file"),
                         ("device.jpg", "outside_root"), (".", "not_regular_file")):  # fmt: skip
        with pytest.raises(ImageError) as caught:
            ImageFolder(tmp_path).read(name)
        assert caught.value.reason == reason


def jpeg_of_scans(num, side=64):
    """A progressive JPEG with its last scan repeated."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(
        buffer, "JPEG", progressive=True
    )
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * num + b"\xff\xd9"


def test_a_jpeg_that_goes_over_its_pixels_a_thousand_times_is_refused_before_decoding():
    decode(jpeg_of_scans(20), px=16)
    with pytest.raises(ImageError, match="too_large: a JPEG of more than 100 scans over 4,096 pixels"):
        decode(jpeg_of_scans(2000), px=16)


def test_a_file_of_too_many_bytes_is_not_read(tmp_path):
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(30 << 30)
    with pytest.raises(ImageError, match="too_large: 'sparse.jpg' has 32,212,254,720 bytes"):
        ImageFolder(tmp_path).read("sparse.jpg")
    with pytest.raises(ImageError, match="too_large"):
        decode(bytes((64 << 20) + 1), px=16)


def test_scans_are_counted_whatever_lies_between_them_and_not_what_follows_the_picture():
    content = jpeg_of_scans(300)
    comment = b"\xff\xfe\x00\x04\xff\xd9"  # whose text is an end marker
    at = content.index(b"\xff\xda", content.index(b"\xff\xda") + 2)
    with pytest.raises(ImageError, match="too_large: a JPEG of more than 100 scans"):
        decode(content[:at] + comment + content[at:], px=16)
    plain = jpeg_of_scans(1)
    film = b"\xff\xda" * 500
    np.testing.assert_array_equal(decode(plain + film, px=16), decode(plain, px=16))
