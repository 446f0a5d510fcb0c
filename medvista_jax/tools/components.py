"""Connected components on the device: pixels that touch along an edge (4-connectivity) share a label."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array
from medvista_jax.tools.pixels import only_if
from medvista_jax.tools.words import ranks

RUN = 8
"""Runs along the rows are labelled in the place of pixels where there is at most one for as many pixels."""


def label(mask_YX: Array) -> Array:
    """Components of a mask.

    Every pixel points at a pixel of its component, at first at itself. A round does three things (Shiloach and Vishkin
    1982, without their case distinctions): each pixel looks at its four neighbours for a larger pointer; the pixel that
    it pointed at learns of what it found ("hooking"); each pointer is replaced by what it points at, twice. Hooking and
    jumping carry a pointer across a whole component at once: snakes and spirals, along which neighbours alone would
    need a round a pixel, take about log2 of their length.

    Pointers only grow and never leave their component, so the loop ends; where it ends, neighbours agree, and the one
    pointer of a component is its last pixel in reading order, because no pixel ever points before itself.

    Args:
      mask_YX: bool.

    Returns:
      int32 ``[Y, X]``: 1 + the index of the component's last pixel in reading order; 0 outside of the mask.
    """
    shape = mask_YX.shape
    own_YX = jnp.arange(1, mask_YX.size + 1, dtype=jnp.int32).reshape(shape)

    def spread(label_YX: Array) -> Array:
        seen_YX = _with_neighbours(label_YX)
        told_N = seen_YX.ravel().at[jnp.maximum(label_YX.ravel() - 1, 0)].max(seen_YX.ravel())
        for _ in range(2):
            told_N = jnp.where(mask_YX.ravel(), told_N[jnp.maximum(told_N - 1, 0)], 0)
        return told_N.reshape(shape)

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        label_YX, _ = carry
        new_YX = spread(label_YX)
        return new_YX, jnp.any(new_YX != label_YX)

    return jax.lax.while_loop(lambda carry: carry[1], step, (jnp.where(mask_YX, own_YX, 0), jnp.any(mask_YX)))[0]


def sizes(label_YX: Array) -> Array:
    """Pixels of each component, int32 ``[Y * X]``, at the index of its last pixel; 0 elsewhere."""
    counts_N = jnp.zeros((label_YX.size + 1,), jnp.int32).at[label_YX.ravel()].add(1)
    return counts_N[1:]


def count_components(mask_YX: Array, smallest: Array) -> tuple[Array, Array]:
    """How many components have at least ``smallest`` pixels, int32, and how many they have on average, float32.

    On a CPU, where a round costs as much as it looks at, runs of pixels along the rows are labelled in their place,
    unless there are too many of them.
    """
    found_2 = jax.lax.platform_dependent(mask_YX, smallest, cpu=_count_by_runs, default=_count_by_pixels)
    return found_2[0], found_2[1] / jnp.maximum(found_2[0], 1)


def _count_by_pixels(mask_YX: Array, smallest: Array) -> Array:
    """Components with at least ``smallest`` pixels, and their pixels: int32 ``[2]``."""
    label_YX = label(mask_YX)
    own_YX = jnp.arange(1, mask_YX.size + 1, dtype=jnp.int32).reshape(mask_YX.shape)
    of_all_2 = jnp.stack([jnp.sum(label_YX == own_YX, dtype=jnp.int32), jnp.sum(mask_YX, dtype=jnp.int32)])
    return only_if(smallest > 1, lambda: _large(sizes(label_YX), smallest), of_all_2)


def _count_by_runs(mask_YX: Array, smallest: Array) -> Array:
    """The same. Runs of neighbouring rows touch where pixels of both lie above one another: those are the edges of a
    graph whose components are those of the mask."""
    most = max(1, mask_YX.size // RUN)
    before_YX = lambda mask_YX: jnp.pad(mask_YX, ((0, 0), (1, 0)))[:, :-1]  # noqa: E731
    run_YX, runs = ranks(mask_YX & ~before_YX(mask_YX))
    both_YX = mask_YX & jnp.pad(mask_YX[1:], ((0, 1), (0, 0)))
    first_YX = both_YX & ~before_YX(both_YX)
    edge_YX, edges = ranks(first_YX)

    def count() -> Array:
        at_N = jnp.where(first_YX, edge_YX - 1, most).ravel()
        pixel_E = jnp.zeros((most,), jnp.int32).at[at_N].set(jnp.arange(mask_YX.size, dtype=jnp.int32), mode="drop")
        run_N = run_YX.ravel() - 1
        below_E = jnp.minimum(pixel_E + mask_YX.shape[1], mask_YX.size - 1)
        real_E = jnp.arange(most) < edges
        root_R = _roots(*(jnp.where(real_E, run_N[at_E], 0) for at_E in (pixel_E, below_E)))
        own_R = jnp.arange(most, dtype=jnp.int32)
        found = jnp.sum((root_R == own_R) & (own_R < runs), dtype=jnp.int32)

        def large() -> Array:
            length_R = jnp.zeros((most,), jnp.int32).at[run_N].add(mask_YX.ravel().astype(jnp.int32), mode="drop")
            return _large(jnp.zeros((most,), jnp.int32).at[root_R].add(length_R), smallest)

        return only_if(smallest > 1, large, jnp.stack([found, jnp.sum(mask_YX, dtype=jnp.int32)]))

    few = (runs <= most) & (edges <= most)
    return jax.lax.cond(few, count, lambda: _count_by_pixels(mask_YX, smallest))


def _large(area_N: Array, smallest: Array) -> Array:
    counts_N = (area_N >= smallest) & (area_N > 0)
    return jnp.stack([jnp.sum(counts_N, dtype=jnp.int32), jnp.sum(jnp.where(counts_N, area_N, 0))])


def _roots(a_E: Array, b_E: Array) -> Array:
    """The last node of each node's component in a graph of as many nodes as edges; by the rounds of :func:`label`."""

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        root_R = carry[0]
        root_aE, root_bE = root_R[a_E], root_R[b_E]
        last_E = jnp.maximum(root_aE, root_bE)
        root_R = root_R.at[root_aE].max(last_E).at[root_bE].max(last_E)
        for _ in range(2):
            root_R = root_R[root_R]
        return root_R, jnp.any(root_R[a_E] != root_R[b_E])

    nodes_R = jnp.arange(a_E.shape[0], dtype=jnp.int32)
    return jax.lax.while_loop(lambda carry: carry[1], step, (nodes_R, jnp.any(a_E != b_E)))[0]


def _with_neighbours(label_YX: Array) -> Array:
    """The largest label of each pixel of the mask and its four neighbours."""
    wide = jnp.pad(label_YX, 1)
    across_YX = jnp.maximum(wide[1:-1, :-2], wide[1:-1, 2:])
    along_YX = jnp.maximum(wide[:-2, 1:-1], wide[2:, 1:-1])
    return jnp.where(label_YX > 0, jnp.maximum(label_YX, jnp.maximum(across_YX, along_YX)), 0)
