"""Implanted targets: bit-identical thumbnails for every class, classes that a native crop tells at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvista_jax.data import implants
from medvista_jax.data.atlas import Atlas
from medvista_jax.data.canvas import CANVAS, THUMBNAIL, thumbnail, thumbnail_matrix
from medvista_jax.data.families import implanted
from medvista_jax.data.implants import IMPLANTS, MARGIN, PHASE, SHAPES, SIDE, STRIPES, implant

PLACES = range(MARGIN, CANVAS - MARGIN - SIDE + 1, 4)
KINDS = {"shape": SHAPES, "stripes": STRIPES}


def reference(pixels):
    """Thumbnail by jax, float32 [64, 64]."""
    scale = jnp.full((2,), THUMBNAIL / CANVAS)
    plane = jnp.asarray(pixels, jnp.float32)
    return np.asarray(
        jax.image.scale_and_translate(
            plane, (THUMBNAIL, THUMBNAIL), (0, 1), scale, jnp.zeros(2), "linear", antialias=True
        )
    )


def test_thumbnail_is_the_linear_antialiased_reduction_of_jax():
    rows = thumbnail_matrix()
    np.testing.assert_array_equal(rows[9, 34:42] * 32, [1, 3, 5, 7, 7, 5, 3, 1])
    assert np.count_nonzero(rows[9]) == 8
    pixels = np.random.default_rng(0).integers(0, 256, (CANVAS, CANVAS))
    np.testing.assert_allclose(thumbnail(pixels), reference(pixels), atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    y=st.sampled_from(PLACES),
    x=st.sampled_from(PLACES),
    polarity=st.sampled_from([1, -1]),
)
def test_thumbnails_of_all_classes_are_bit_identical(kind, seed, y, x, polarity):
    rng = np.random.default_rng(seed)
    # Noise of every level and flat black, white, grey: the extremes are where a texture would clip.
    noise = rng.integers(0, 256, (CANVAS, CANVAS)).astype(np.uint8)
    for base in (noise, np.full_like(noise, rng.choice([0, 3, 127, 254, 255]))):
        drawn = [
            implant(base, (y, x), IMPLANTS.index(name), polarity=sign, variant=variant)
            for name in KINDS[kind]
            for sign in (polarity, 1)
            for variant in (0, 1)
        ]
        first = thumbnail(drawn[0])
        assert all(one.dtype == np.uint8 for one in drawn)
        assert all(np.array_equal(thumbnail(one), first) for one in drawn)
        assert len({one.tobytes() for one in drawn}) >= len(KINDS[kind])
        # Not vacuous through clipping: the texture keeps its full amplitude.
        inside = drawn[0][y : y + SIDE, x : x + SIDE].astype(int) - drawn[-1][y : y + SIDE, x : x + SIDE]
        assert np.abs(inside).max() >= 40


@pytest.mark.parametrize("kind", KINDS)
def test_jax_float32_thumbnails_are_bit_identical_too(kind):
    base = np.asarray(Atlas("train").item("plane", 1).pixels[..., 0], np.uint8)
    drawn = [reference(implant(base, (106, 118), IMPLANTS.index(name))) for name in KINDS[kind]]
    assert all(np.array_equal(one, drawn[0]) for one in drawn[1:])


@pytest.mark.parametrize("shift", [(1, 0), (0, 2), (3, 1)])
def test_out_of_phase_the_thumbnail_would_tell(shift):
    base = np.full((CANVAS, CANVAS), 120, np.uint8)
    place = 102 + shift[0], 102 + shift[1]
    with pytest.raises(ValueError, match="modulo 4"):
        implant(base, place, 0)
    # The same drawing without the guard is seen: the guard, and the tests above, are not idle.
    seen = []
    for name in ("horizontal", "vertical"):
        pixels = base.astype(np.int16)
        pixels[place[0] : place[0] + SIDE, place[1] : place[1] + SIDE] += implants.texture(IMPLANTS.index(name))
        seen.append(thumbnail(pixels))
    assert np.abs(seen[0] - seen[1]).max() > 1.0


def test_targets_near_the_border_are_refused():
    base = np.zeros((CANVAS, CANVAS), np.uint8)
    for place in [(PHASE, 102), (102, CANVAS - SIDE - PHASE)]:
        with pytest.raises(ValueError, match="inside the canvas"):
            implant(base, place, 0)


@pytest.mark.parametrize("family", ["implant_shape", "implant_stripes", "same_shape"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_whole_items_show_the_same_thumbnail_whatever_the_class(family, split, monkeypatch):
    """Forces other classes at the very places that the family chose; nothing else of the picture may
    change.
    """
    atlas = Atlas(split)
    names = STRIPES if family == "implant_stripes" else SHAPES
    original = implant
    for index in range(25):
        thumbnails = []
        for name in names:
            monkeypatch.setattr(
                implanted,
                "implant",
                lambda base, place, class_id, *, polarity, variant, forced=name: original(
                    base, place, IMPLANTS.index(forced), polarity=polarity, variant=variant
                ),
            )
            thumbnails.append(thumbnail(atlas.item(family, index).pixels))
        assert all(np.array_equal(one, thumbnails[0]) for one in thumbnails)


def windows(family: str, split: str, count: int):
    """Thumbnail patches [N, 16, 16] and native crops [N, 64, 64] centred on the true place, and class
    numbers.
    """
    atlas = Atlas(split)
    small, native, labels = [], [], []
    for index in range(count):
        item = atlas.item(family, index)
        x, y = (round((item.targets[0][i] + item.targets[0][i + 2]) * CANVAS / 2000) for i in (0, 1))
        y, x = (min(CANVAS - 32, max(32, value)) for value in (y, x))
        ty, tx = (min(THUMBNAIL - 16, max(0, value // 4 - 8)) for value in (y, x))
        # Only the part of the thumbnail that is wanted: the whole of it costs far more.
        down, right = (slice(max(0, 4 * t - 4), 4 * t + 68) for t in (ty, tx))
        rows, columns = thumbnail_matrix()[ty : ty + 16, down], thumbnail_matrix()[tx : tx + 16, right]
        small.append(rows @ item.pixels[down, right, 0] @ columns.T)
        native.append(item.pixels[y - 32 : y + 32, x - 32 : x + 32, 0])
        labels.append(item.options.index(item.answer))
    return np.array(small, np.float32), np.array(native, np.float32), np.array(labels)


def features(images: np.ndarray, pool: int) -> np.ndarray:
    """Pixels, and sizes of the differences towards four neighbours, averaged over ``pool`` x ``pool``
    cells.
    """
    core = images[:, 1:-1, 1:-1]
    across = [images[:, 1:-1, 2:], images[:, 2:, 1:-1], images[:, 2:, 2:], images[:, 2:, :-2]]
    maps = [core] + [np.abs(core - other) for other in across]
    side = core.shape[1] // pool * pool
    maps = [m[:, :side, :side].reshape(len(m), side // pool, pool, side // pool, pool).mean((2, 4)) for m in maps]
    return np.stack(maps, 1).reshape(len(images), -1)


def ridge_accuracy(train, train_labels, test, test_labels, penalty: float = 3.0) -> float:
    """Held-out accuracy of one-against-all ridge regression on standardised features."""
    mean, scale = train.mean(0), train.std(0) + 1e-3
    train, test = (np.c_[(x - mean) / scale, np.ones(len(x))].astype(np.float64) for x in (train, test))
    wanted = np.eye(train_labels.max() + 1)[train_labels]
    weights = np.linalg.solve(train.T @ train + penalty * len(train) / 100 * np.eye(train.shape[1]), train.T @ wanted)
    return float(((test @ weights).argmax(1) == test_labels).mean())


@pytest.mark.parametrize("family", ["implant_shape", "implant_stripes"])
def test_a_trained_probe_reads_the_crop_and_not_the_thumbnail(family):
    small, native, labels = windows(family, "train", 3000)
    small_test, native_test, labels_test = windows(family, "test", 4000)
    thumbnails = ridge_accuracy(features(small, 1), labels, features(small_test, 1), labels_test)
    rounded = ridge_accuracy(features(np.rint(small), 1), labels, features(np.rint(small_test), 1), labels_test)
    crops = ridge_accuracy(features(native, 4), labels, features(native_test, 4), labels_test)
    print(f"{family}: thumbnail {thumbnails:.3f}, rounded {rounded:.3f}, native crop {crops:.3f}")
    # 3 points are 4.4 standard deviations of a guess over 4,000 items.
    assert abs(thumbnails - 0.25) <= 0.03
    assert abs(rounded - 0.25) <= 0.03
    assert crops > 0.9
