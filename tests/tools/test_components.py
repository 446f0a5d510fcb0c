"""Connected components and flood fill against ``skimage.measure.label``, Otsu against its own: exact."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import filters, measure

from medvista_jax.tools.components import label, sizes
from medvista_jax.tools.flood import flood
from medvista_jax.tools.otsu import BINS, otsu

SIDE = 64
_label, _sizes, _otsu, _flood = jax.jit(label), jax.jit(sizes), jax.jit(otsu), jax.jit(flood)


def snake() -> np.ndarray:
    """One pixel wide, to and fro over the whole canvas."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    return mask


def spiral(gap: int = 2) -> np.ndarray:
    """One pixel wide, from the rim inwards; its arms do not touch."""
    mask = np.zeros((SIDE, SIDE), bool)
    y, x, down, right = 0, 0, 0, 1
    mask[0, 0] = True
    lengths = [SIDE - 1] * 3 + [length for length in range(SIDE - 1 - gap, 0, -gap) for _ in range(2)]
    for length in lengths:
        for _ in range(length):
            y, x = y + down, x + right
            mask[y, x] = True
        down, right = right, -down
    return mask


def masks() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    comb = (x % 2 == 0) | (y == 0)
    trees = {f"noise {share}": rng.random((SIDE, SIDE)) < share for share in (0.1, 0.5, 0.6, 0.65, 0.9)}
    return trees | {
        "empty": np.zeros((SIDE, SIDE), bool),
        "full": np.ones((SIDE, SIDE), bool),
        "corners": np.isin(np.arange(SIDE**2).reshape(SIDE, SIDE), (0, SIDE - 1, SIDE**2 - SIDE, SIDE**2 - 1)),
        "checkerboard": (y + x) % 2 == 0,
        "diagonals": (y - x) % 3 == 0,
        "staircase": ((y - x) % SIDE <= 1),
        "comb": comb,
        "comb upside down": comb[::-1],
        "rings": np.maximum(abs(y - 32), abs(x - 32)) % 2 == 0,
        "snake": snake(),
        "snake on its side": snake().T,
        "spiral": spiral(),
        "spiral inside out": ~spiral(),
        "spiral turned": spiral()[::-1, ::-1],
    }


@pytest.mark.parametrize("name", masks())
def test_the_same_partition_as_skimage(name):
    mask = masks()[name]
    found, expected = np.asarray(_label(jnp.asarray(mask))), measure.label(mask, connectivity=1)
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(found)) == len(np.unique(expected))  # a bijection of labels
    assert ((found > 0) == mask).all()
    area = np.asarray(_sizes(jnp.asarray(found)))
    assert sorted(area[area > 0]) == sorted(np.bincount(expected.ravel())[1:])


@pytest.mark.parametrize("columns", [SIDE, 45, 31])
@pytest.mark.parametrize("name", masks())
def test_floods_fill_the_component_of_the_seed(name, columns):
    """Words of 32 pixels, the last one not full; seeds on and off the mask."""
    mask = masks()[name][:, :columns]
    expected = measure.label(mask, connectivity=1)
    inside = np.argwhere(mask)[:: max(1, mask.sum() // 3)]
    for y, x in [*inside, (0, 0), (SIDE - 1, columns - 1)]:
        found = _flood(jnp.asarray(mask), jnp.array([x, y]))
        assert (np.asarray(found) == ((expected == expected[y, x]) & mask[y, x])).all()


@pytest.mark.parametrize("tall", [False, True])
def test_floods_run_through_more_words_than_a_word_has_bits(tall):
    """Carries of 35 words, full ones and broken ones; both ways, since seeds lie at either end and in the middle."""
    mask = np.ones((5, 1100), bool)
    mask[1], mask[3, 40:1060] = False, False
    mask[1, -1] = mask[3, 500] = True
    mask[4, 31::32] = False
    mask = mask.T if tall else mask
    expected = measure.label(mask, connectivity=1)
    for x, y in ((0, 0), (1099, 0), (550, 2), (0, 4), (1099, 4), (516, 4)):
        x, y = (y, x) if tall else (x, y)
        found = _flood(jnp.asarray(mask), jnp.array([x, y]))
        assert (np.asarray(found) == (expected == expected[y, x])).all() and found.sum() > 1


def test_a_label_is_the_last_pixel_of_its_component():
    found = np.asarray(_label(jnp.asarray(spiral())))
    assert set(found[found > 0]) == {1 + int(np.flatnonzero(spiral()).max())}


def test_rows_of_a_batch_that_need_more_and_fewer_rounds():
    """A while loop under two vmaps runs until the slowest row is done; the others must stay as they were."""
    names = ("empty", "snake", "full", "spiral", "noise 0.6", "corners")
    stack = jnp.asarray(np.stack([masks()[name] for name in names]))
    seed = jnp.zeros((len(names), 2), jnp.int32)
    twice = lambda f, *rows: jax.jit(jax.vmap(jax.vmap(f)))(*(x.reshape(2, 3, *x.shape[1:]) for x in rows))  # noqa: E731
    labels, floods = (x.reshape(stack.shape) for x in (twice(label, stack), twice(flood, stack, seed)))
    for row, found, filled in zip(stack, labels, floods, strict=True):
        assert (found == _label(row)).all()
        assert (filled == _flood(row, seed[0])).all()


@pytest.mark.parametrize("mask", [snake(), spiral(), masks()["noise 0.6"]], ids=["snake", "spiral", "noise"])
def test_rounds_are_the_logarithm_of_the_longest_way(mask, monkeypatch):
    """Neighbours alone would need 2000 of them."""
    rounds = 0

    def loop(condition, step, carry):
        nonlocal rounds
        while condition(carry):
            carry, rounds = step(carry), rounds + 1
        return carry

    monkeypatch.setattr(jax.lax, "while_loop", loop)
    label(jnp.asarray(mask))
    assert 1 < rounds <= 12


def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    two = np.concatenate([rng.normal(60, 12, 2000), rng.normal(150, 25, 1500)])
    return {
        "two humps": np.clip(np.round(two), 0, 255),
        "noise": rng.integers(0, 256, 3000),
        "narrow": rng.integers(100, 104, 500),
        "skew": np.round(rng.exponential(20, 3000)).clip(0, 255),
        "two values": np.repeat([10, 200], (700, 31)),
        "far apart": np.repeat([0, 255], (5, 600)),
    }


@pytest.mark.parametrize("name", images())
def test_otsu_of_eight_bits_is_skimages(name):
    values = images()[name]
    canvas, within = np.full(SIDE * SIDE, 255.0), np.zeros(SIDE * SIDE, bool)
    canvas[: len(values)], within[: len(values)] = values, True
    shape = (SIDE, SIDE)
    found = _otsu(jnp.asarray(canvas.reshape(shape), jnp.float32), jnp.asarray(within.reshape(shape)))
    assert float(found) == filters.threshold_otsu(values.astype(np.uint8))


def test_otsu_of_more_bits_is_skimages_of_the_bins():
    values = np.round(np.random.default_rng(2).gamma(3.0, 4000.0, (SIDE, SIDE))).clip(500, 65535)
    width = np.ceil((values.max() - values.min() + 1) / BINS)
    bins = (values - values.min()) // width
    expected = values.min() + (filters.threshold_otsu(bins.astype(np.uint8)) + 1) * width - 1
    assert float(_otsu(jnp.asarray(values, jnp.float32), jnp.ones((SIDE, SIDE), bool))) == expected
    negative = _otsu(jnp.asarray(values - 40000.0, jnp.float32), jnp.ones((SIDE, SIDE), bool))
    assert float(negative) == expected - 40000.0


@pytest.mark.parametrize(("value", "share"), [(7.0, True), (0.0, True), (9.0, False)])
def test_otsu_of_one_value_and_of_none(value, share):
    flat = _otsu(jnp.full((SIDE, SIDE), value), jnp.full((SIDE, SIDE), share))
    assert float(flat) == (value if share else 0.0)
