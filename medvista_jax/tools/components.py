"""Connected components on the device: pixels that touch along an edge (4-connectivity) share a label."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array
from medvista_jax.tools.pixels import only_if


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
    """How many components have at least ``smallest`` pixels, int32, and how many they have on average, float32."""
    label_YX = label(mask_YX)
    own_YX = jnp.arange(1, mask_YX.size + 1, dtype=jnp.int32).reshape(mask_YX.shape)

    def of_all() -> Array:
        return jnp.stack([jnp.sum(label_YX == own_YX, dtype=jnp.int32), jnp.sum(mask_YX, dtype=jnp.int32)])

    def of_large() -> Array:
        area_N = sizes(label_YX)
        counts_N = area_N >= smallest
        return jnp.stack([jnp.sum(counts_N, dtype=jnp.int32), jnp.sum(jnp.where(counts_N, area_N, 0))])

    found_2 = only_if(smallest > 1, of_large, of_all())
    return found_2[0], found_2[1] / jnp.maximum(found_2[0], 1)


def _with_neighbours(label_YX: Array) -> Array:
    """The largest label of each pixel of the mask and its four neighbours."""
    wide = jnp.pad(label_YX, 1)
    across_YX = jnp.maximum(wide[1:-1, :-2], wide[1:-1, 2:])
    along_YX = jnp.maximum(wide[:-2, 1:-1], wide[2:, 1:-1])
    return jnp.where(label_YX > 0, jnp.maximum(label_YX, jnp.maximum(across_YX, along_YX)), 0)
