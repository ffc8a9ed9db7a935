import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fmtl.dataset import duplicates, shards
from fmtl.dataset.pixels import images


def photo(seed, side=160):
    """Smooth shapes on white, as product photos are."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side // 2, side // 2))
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(small.filter(ImageFilter.GaussianBlur(2)), (side // 4, side // 4))
    return canvas


def stored(image, quality=None):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality) if quality else image.save(buffer, "PNG")
    return images.decode(buffer.getvalue(), px=64)


def looks(*pixels):
    return np.stack([shards.thumbnail(p) for p in pixels])


def test_images_are_identical_when_their_pixels_are_whatever_their_files_say():
    a, b = stored(photo(0)), stored(photo(1))
    nearly = a.copy()
    nearly[20, 20] ^= 1
    pixels = np.stack([a, b, a, nearly, a])
    groups = duplicates.identical(["x", "y", "z", "w", "x"], looks(*pixels), lambda rows: pixels[rows])
    assert groups.tolist() == [0, 1, 0, 2, 0]


def test_equal_files_need_no_look_at_the_pixels():
    def fail(rows):
        raise AssertionError("pixels were read")

    a, b = stored(photo(0)), stored(photo(1))
    assert duplicates.identical(["x", "y", "x"], looks(a, b, a), fail).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: stored(image, quality=40),
        lambda image: stored(image.resize((97, 97))),
        lambda image: stored(image.filter(ImageFilter.UnsharpMask(1, 40))),
    ],
    ids=["saved again", "resized", "sharpened"],
)
def test_a_retouched_copy_is_a_near_duplicate_of_its_original_and_of_nothing_else(change):
    originals = [photo(seed) for seed in range(30)]
    pixels = [stored(image) for image in originals] + [change(image) for image in originals]
    near = duplicates.near(np.arange(60), looks(*pixels))
    assert near.tolist() == [*range(30), *range(30)]


def test_plain_pictures_of_many_colours_are_told_apart_in_time():
    """They share one hash, so that comparing each with each would take minutes."""
    colours = np.random.default_rng(0).permutation(20_000)
    plain = np.stack([colours % 25 * 10, colours // 25 % 25 * 10, colours // 625 * 8], axis=1).astype(np.uint8)
    thumbnails = np.broadcast_to(plain[:, None, None, :], (20_000, 8, 9, 3))
    assert duplicates.near(np.arange(20_000), thumbnails).tolist() == list(range(20_000))


def test_near_groups_hold_whole_identical_groups():
    a, b = stored(photo(0)), stored(photo(0), quality=40)
    near = duplicates.near(np.array([0, 1, 0, 1]), looks(a, b, a, b))
    assert near.tolist() == [0, 0, 0, 0]


def test_the_candidates_are_all_pairs_of_hashes_at_most_three_bits_apart():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 40, dtype=np.uint64)
    flips = np.array(
        [sum(1 << int(bit) for bit in rng.choice(64, n, False)) for n in rng.integers(1, 7, 400)], np.uint64
    )
    hashes = np.unique(np.concatenate([base, base[rng.integers(0, 40, 400)] ^ flips]))
    found = set()
    for a, b in duplicates._candidate_pairs(hashes, np.arange(len(hashes))):
        found |= set(zip(a.tolist(), b.tolist(), strict=True))
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None])
    want = {(i, j) for i, j in np.argwhere((distance >= 1) & (distance <= 3)).tolist() if i < j}
    assert found == want and len(want) > 50


def test_a_bit_of_the_hash_says_that_brightness_falls():
    thumbnails = np.zeros((1, 8, 9, 3), np.uint8)
    thumbnails[0, 0, 0] = 200  # brighter than its right neighbour; nothing else falls
    assert np.unpackbits(duplicates.dhash(thumbnails).view(np.uint8)).tolist() == [1] + [0] * 63


def test_conflicts_are_groups_with_two_known_targets_in_a_task():
    targets = np.array([[0, 1], [0, 2], [1, -1], [-1, 1], [0, 0]])
    assert duplicates.conflicts(np.array([0, 0, 1, 1, 2]), targets, -1) == {0: [1]}
    assert duplicates.conflicts(np.array([0, 0, 0, 0, 1]), targets, -1) == {0: [0, 1]}


def test_rows_with_a_common_value_are_together_and_blanks_are_alone():
    edges = duplicates.same_value(["a", None, "b", "a", None])
    assert duplicates.together(5, edges, [(2, 4)]).tolist() == [0, 1, 2, 0, 2]
