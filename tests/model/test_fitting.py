"""What stands before an exported network is what prepare and evaluation do, to the bit."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fmtl.catalogue.photos.folder import ImageError
from fmtl.dataset.pixels import images
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.loading.preprocess import as_images, prepare_for_network, resize
from fmtl.model.exporting.fitting import Fit, Normalise, Sides, torch_weights

COLOUR = "#a01fe0"


def preprocess(stored_px, fit="pad", px=64):
    return Preprocess(stored_px, fit, COLOUR, px, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), True)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def fitted(pixels, how):
    image = torch.from_numpy(pixels).unsqueeze(0)
    down_first = bool(Sides(how.stored_px, how.fit)(image))
    return Fit(how, down_first=down_first)(image).numpy()[0]


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
@pytest.mark.parametrize("stored_px", [64, 97, 256])
def test_photos_of_any_size_are_fitted_as_pillow_fits_them(fit, stored_px):
    rng = np.random.default_rng([stored_px, len(fit)])
    compared = 0
    for _ in range(40):
        height, width = (int(side) for side in np.exp(rng.uniform(np.log(12), np.log(700), 2)))
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        try:
            wanted = images.decode(png(pixels), px=stored_px, fit=fit, background=COLOUR)
        except ImageError:  # too narrow for a photo
            continue
        np.testing.assert_array_equal(fitted(pixels, preprocess(stored_px, fit)), wanted, str((height, width)))
        compared += 1
    assert compared > 20


@pytest.mark.parametrize("order", [True, False])
def test_the_order_of_directions_matters_and_is_pillows(order):
    """Of a photo of either kind the other order gives other pixels."""
    height, width = (400, 90) if order else (90, 400)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    how = preprocess(128, "stretch")
    image = torch.from_numpy(pixels).unsqueeze(0)
    assert bool(Sides(128, "stretch")(image)) is order
    wanted = np.asarray(Image.fromarray(pixels).resize((128, 128), Image.Resampling.BILINEAR))
    assert (Fit(how, down_first=order)(image).numpy()[0] == wanted).all()
    assert (Fit(how, down_first=not order)(image).numpy()[0] != wanted).any()


def test_a_photo_of_the_stored_size_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fitted(pixels, preprocess(64)), pixels)


@pytest.mark.parametrize(("num", "px"), [(256, 128), (256, 224), (96, 224), (257, 131), (80, 96), (128, 128), (64, 17)])
def test_the_second_resize_is_torchs(num, px):
    pixels = np.random.default_rng(px).integers(0, 256, (2, num, num, 3), dtype=np.uint8)
    weights, bits = torch_weights(num, px)
    sums = np.floor(pixels.astype(float).transpose(0, 3, 1, 2) @ weights.T / 2**bits + 0.5)
    sums = np.floor(weights @ sums / 2**bits + 0.5)
    np.testing.assert_array_equal(sums, resize(as_images(pixels), px).numpy())


def test_the_input_of_the_network_is_that_of_evaluation():
    how = preprocess(100, px=64)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 100, 100, 3), dtype=np.uint8)
    found = Normalise(how)(torch.from_numpy(pixels))
    torch.testing.assert_close(found, prepare_for_network(as_images(pixels), how), atol=1e-6, rtol=0)
