"""Effects of a batch: each row its own, in one order, however the device goes through the rows."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.core.types import ImageBank, View
from medvista_jax.tools import render as rendering
from medvista_jax.tools.geometry import whole
from medvista_jax.tools.registry import ALL_TOOLS
from medvista_jax.tools.render import all_rows, render, row_by_row

TOOLS = tuple(ALL_TOOLS[name] for name in ("zoom_in", "equalize", "invert", "edge_map", "overlay_grid"))
SIZE = (24, 16)
STACKS = ((), (2,), (3,), (2, 3), (3, 2), (5, 3))
"""Effects of six rows, by one more than the tool's place above: two rows for each of three prompts."""
VALUES = {2: 4.0, 3: 0.0, 4: 1.0, 5: 4.0}

shown = jax.jit(functools.partial(render, TOOLS, size=SIZE))


def batch(stacks=STACKS) -> tuple[ImageBank, View]:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 24, 16, 1)).astype(np.uint8)
    window = np.tile(np.array([0, 255], np.float32), (3, 1, 1))
    bank = jax.tree.map(jnp.asarray, ImageBank.of(pixels, window))
    rows = len(stacks)
    effect, values = np.zeros((rows, 2), np.int32), np.zeros((rows, 2, 8), np.float32)
    for row, stack in enumerate(stacks):
        for at, number in enumerate(stack):
            effect[row, at], values[row, at, 0] = number, VALUES[number]
    panels = lambda one: jnp.tile(one[None, None], (rows, 2) + (1,) * one.ndim)  # noqa: E731
    view = View(
        source=jnp.zeros((rows, 2), jnp.int32),
        affine=panels(whole(jnp.array([24, 16]))),
        window=panels(jnp.array([0.0, 255.0])),
        blend=jnp.zeros((rows,), jnp.int32),
        seam=jnp.zeros((rows, 3)),
        effect=jnp.asarray(effect),
        values=jnp.asarray(values),
    )
    return bank, view


def test_every_row_of_a_batch_has_its_own_effects_in_its_own_order():
    """Row by row against batches in which all rows show what this row shows."""
    together = np.asarray(shown(*batch()))
    for row, stack in enumerate(STACKS):
        alone = np.asarray(shown(*batch((stack,) * 6)))
        np.testing.assert_array_equal(together[row], alone[row])
    bank, _ = batch()
    np.testing.assert_array_equal(together[0], bank.pixels_POYXC[0, 0])
    np.testing.assert_array_equal(together[2], 255 - np.asarray(bank.pixels_POYXC[1, 0]))


@pytest.mark.parametrize("tool", TOOLS[1:], ids=lambda tool: tool.name)
def test_rows_abreast_and_row_by_row_are_the_same(tool):
    """One of the two runs on CPUs, the other elsewhere; within the one level that float32 sums may be apart."""
    bank, view = batch()
    levels = np.random.default_rng(1).integers(0, 256, (6, *SIZE, 1)).astype(np.float32)
    values = np.full((6, 8), 3.0, np.float32)
    mine = np.array([True, False, True, True, False, False])
    effect = lambda row, originals: jnp.round(tool.effect(*row, originals))  # noqa: E731
    one, other = (
        np.asarray(jax.jit(functools.partial(way, effect))(bank, mine, (levels, values, view), levels))
        for way in (all_rows, row_by_row)
    )
    assert np.abs(one - other).max() <= 1 and (one != other).mean() < 0.01
    np.testing.assert_array_equal(one[~mine], levels[~mine])
    assert (one[mine] != levels[mine]).any()


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_rows_abreast_a_few_at_a_time_are_all_rows(monkeypatch, at_once):
    """What accelerators run, here on a CPU: twelve rows of three prompts, a prompt's share and less at a time."""
    bank, view = batch(STACKS + STACKS[::-1])
    needed = np.arange(12) % 5 != 3
    monkeypatch.setattr(rendering, "ROWS_AT_ONCE", 12)
    whole_batch = np.asarray(jax.jit(functools.partial(rendering.render_abreast, TOOLS, bank, SIZE))(view, needed))
    monkeypatch.setattr(rendering, "ROWS_AT_ONCE", at_once)
    some = np.asarray(jax.jit(functools.partial(rendering.render_abreast, TOOLS, bank, SIZE))(view, needed))
    np.testing.assert_array_equal(some, whole_batch)
    assert not some[~needed].any() and some[needed].any(axis=(1, 2, 3)).all()
    assert (some[0] != some[4]).any()  # originals of two prompts
