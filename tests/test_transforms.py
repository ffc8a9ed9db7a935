import numpy as np
import torch
from torchvision.transforms import v2

from fmtl.transforms import Preprocess, as_images, augment, normalise, prepare_for_network

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8)


def test_normalise_equals_torchvisions():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = as_images(PIXELS)
    want = v2.Normalize(mean, std)(v2.functional.to_dtype(images, torch.float32, scale=True))
    torch.testing.assert_close(normalise(images, mean, std), want)


def test_the_batch_is_channels_last_in_memory():
    p = Preprocess(40, "pad", "#ffffff", 24, (0.5,) * 3, (0.5,) * 3)
    batch = prepare_for_network(as_images(PIXELS), p)
    assert batch.shape == (6, 3, 24, 24)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_an_images_augmentation_does_not_depend_on_its_batch():
    draws = np.random.default_rng(1).random((6, 4))
    whole = augment(as_images(PIXELS), draws, 24)
    for i in range(6):
        alone = augment(as_images(PIXELS[i : i + 1]), draws[i : i + 1], 24)
        assert (whole[i] == alone[0]).all()


def test_augmentation_at_full_scale_is_a_resize_and_a_mirror_image_of_it():
    plain = prepare_for_network(as_images(PIXELS), Preprocess(40, "pad", "#ffffff", 24, (0.0,) * 3, (1 / 255,) * 3))
    full = np.tile([0.9999, 0.0, 0.0, 0.9], (6, 1))
    mirrored = np.tile([0.9999, 0.0, 0.0, 0.1], (6, 1))
    assert (augment(as_images(PIXELS), full, 24) == plain).all()
    assert (augment(as_images(PIXELS), mirrored, 24) == plain.flip(-1)).all()


def test_preprocess_survives_json():
    p = Preprocess(256, "crop", "#000000", 128, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocess.from_json(p.to_json()) == p
