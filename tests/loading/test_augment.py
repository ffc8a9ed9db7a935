import colorsys

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from fmtl.loading.augment import NUM_DRAWS, Augmentation, apply_policy, augment, boxes, jitter, rotate
from fmtl.loading.preprocess import (
    Preprocess,
    as_images,
    crop,
    crop_by_products,
    normalise,
    prepare_for_network,
    resize,
    whole,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8)
PLAIN = Preprocess(40, "pad", "#ffffff", 24, (0.0,) * 3, (1.0,) * 3)
NO_EXTRAS = Augmentation()


def draws(**columns):
    """Draws that change nothing, but for the columns named: whole image, not mirrored, factors 1, no turn."""
    out = torch.full((6, NUM_DRAWS), 0.5)
    out[:, :4] = torch.tensor([0.9999, 0.0, 0.0, 0.9])
    names = ("scale", "top", "left", "mirror", "brightness", "contrast", "saturation", "hue", "seed", "turn")
    for name, value in columns.items():
        out[:, names.index(name)] = value
    return out


def test_normalise_equals_torchvisions():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = as_images(PIXELS)
    want = v2.Normalize(mean, std)(v2.functional.to_dtype(images, torch.float32, scale=True))
    torch.testing.assert_close(normalise(images, mean, std), want)


@pytest.mark.parametrize("jittered", [0.0, 0.4])
def test_the_batch_is_channels_last_in_memory(jittered):
    batch = prepare_for_network(as_images(PIXELS), PLAIN)
    trained = augment(as_images(PIXELS), draws(), Augmentation(colour_jitter=jittered), PLAIN)
    for images in (batch, trained):
        assert images.shape == (6, 3, 24, 24) and images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("policy", ["none", "trivial", "rand"])
def test_an_images_augmentation_does_not_depend_on_its_batch(policy):
    drawn = torch.rand(6, NUM_DRAWS, generator=torch.Generator().manual_seed(1))
    augmentation = Augmentation(colour_jitter=0.3, policy=policy, rotation=20)
    before = torch.random.get_rng_state()
    whole = augment(as_images(PIXELS), drawn, augmentation, PLAIN)
    for i in range(6):
        alone = augment(as_images(PIXELS[i : i + 1]), drawn[i : i + 1], augmentation, PLAIN)
        torch.testing.assert_close(whole[i], alone[0])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_augmentation_at_full_scale_is_a_resize_and_a_mirror_image_of_it():
    plain = prepare_for_network(as_images(PIXELS), PLAIN)
    assert (augment(as_images(PIXELS), draws(), NO_EXTRAS, PLAIN) == plain).all()
    assert (augment(as_images(PIXELS), draws(mirror=0.1), NO_EXTRAS, PLAIN) == plain.flip(-1)).all()


def test_crops_stay_inside_and_reach_every_border():
    drawn = torch.rand(4000, NUM_DRAWS, generator=torch.Generator().manual_seed(2))
    side, top, left, mirrored = boxes(drawn, 40, 0.75).T
    assert side.min() == 30 and side.max() == 40
    for start in (top, left):
        assert start.min() == 0 and (start + side).max() == 40
    assert 0.45 < mirrored.float().mean() < 0.55


def test_whole_photos_are_no_crops():
    drawn = torch.rand(50, NUM_DRAWS, generator=torch.Generator().manual_seed(2))
    assert (boxes(drawn, 40, 1.0)[:, :3] == torch.tensor([40, 0, 0])).all()


def test_turns_are_to_either_side_about_the_middle_and_the_background_comes_in():
    images, black = as_images(PIXELS), Preprocess(40, "pad", "#102030", 40, (0.0,) * 3, (1.0,) * 3)
    quarter = Augmentation(rotation=90)
    assert torch.equal(rotate(images, draws(turn=0.5), quarter, black), images)
    assert torch.equal(rotate(images, draws(turn=0.0), quarter, black), images.rot90(-1, (2, 3)))
    assert torch.equal(rotate(images, draws(turn=1.0), quarter, black), images.rot90(1, (2, 3)))
    corner = rotate(images, draws(turn=0.75), quarter, black)[:, :, 0, 0]  # by 45 degrees
    assert (corner == torch.tensor([0x10, 0x20, 0x30])).all()
    want = v2.functional.rotate(images, -45, v2.InterpolationMode.BILINEAR, fill=[0x10, 0x20, 0x30])
    inner = (slice(None), slice(None), slice(8, 32), slice(8, 32))
    found = rotate(images, draws(turn=0.25), quarter, black)
    assert (found[inner].int() - want[inner].int()).abs().max() <= 1


@pytest.mark.parametrize("px", [24, 40, 56])
def test_crops_of_a_whole_batch_by_products_are_the_crops_one_by_one(px):
    """What runs on a GPU against what runs on a CPU."""
    drawn = torch.rand(6, NUM_DRAWS, generator=torch.Generator().manual_seed(3))
    where = boxes(drawn, 40, 0.75)
    one_by_one, at_once = (f(as_images(PIXELS), where, px).int() for f in (crop, crop_by_products))
    assert (one_by_one - at_once).abs().max() <= 1


@pytest.mark.parametrize("px", [24, 56])
def test_a_resize_by_products_is_the_resize(px):
    images = as_images(PIXELS)
    assert (resize(images, px).int() - crop_by_products(images, whole(images), px).int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("column", "adjust"),
    [
        ("brightness", v2.functional.adjust_brightness),
        ("contrast", v2.functional.adjust_contrast),
        ("saturation", v2.functional.adjust_saturation),
    ],
)
def test_jitter_of_one_kind_equals_torchvisions_where_nothing_is_clipped(column, adjust):
    images = as_images((PIXELS // 4 + 90).astype(np.uint8))  # away from black and white
    found = jitter(images, draws(**{column: 0.25}), Augmentation(colour_jitter=0.4), PLAIN)
    want = adjust(v2.functional.to_dtype(images, torch.float32, scale=True), 1 + 0.4 * (2 * 0.25 - 1))
    torch.testing.assert_close(found, want, atol=2e-3, rtol=0)


def test_a_turn_of_hue_moves_pure_colours_and_never_greys():
    pixels = np.zeros((6, 2, 2, 3), np.uint8)
    pixels[:3] = 128
    pixels[3:] = (200, 0, 0)
    third = draws(hue=(1 + 4 / 3) / 2)  # strength 1: a turn of pi / 2 * 4 / 3, a third of the circle
    found = jitter(as_images(pixels), third, Augmentation(colour_jitter=1.0), PLAIN)
    torch.testing.assert_close(found[:3], torch.full((3, 3, 2, 2), 128 / 255))
    red, green, blue = found[3, :, 0, 0].tolist()
    assert colorsys.rgb_to_hsv(red, green, blue)[0] in (pytest.approx(1 / 3), pytest.approx(2 / 3))
    kept = jitter(as_images(pixels), third, Augmentation(colour_jitter=1.0, keep_hue=True), PLAIN)
    torch.testing.assert_close(kept, normalise(as_images(pixels), (0.0,) * 3, (1.0,) * 3))


@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_a_policy_that_keeps_colours_makes_no_new_hue(policy):
    pixels = np.full((2000, 16, 16, 3), 255, np.uint8)  # some of the policies' draws are rare
    pixels[:, 4:12, 4:12] = (255, 0, 0)
    drawn = torch.rand(2000, NUM_DRAWS, generator=torch.Generator().manual_seed(4))
    kept, free = (
        apply_policy(as_images(pixels), drawn, Augmentation(policy=policy, keep_colour=keep)).permute(0, 2, 3, 1)
        for keep in (True, False)
    )
    # White, red, what lies between and its shades: the other two channels are equal, and never above red.
    assert (kept[..., 0] >= kept[..., 1]).all() and (kept[..., 1] == kept[..., 2]).all()
    assert not (free[..., 0] >= free[..., 1]).all()


def test_preprocess_survives_json():
    p = Preprocess(256, "crop", "#000000", 128, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocess.from_json(p.to_json()) == p
