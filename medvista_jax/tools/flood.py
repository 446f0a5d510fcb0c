"""Flood fill on the device: the pixels of a mask that hang together with one of them (4-connectivity)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array

WORD = 32


def flood(mask_YX: Array, seed_2: Array) -> Array:
    """The component of a mask that holds a pixel.

    32 pixels of a row are one word. A round fills every run of the mask that holds a filled pixel from end to end,
    first along the rows, then along the columns, each in log2 steps (parallel prefix, Kogge and Stone 1973: what may be
    crossed in one stride of 2**k pixels is worked out once). Filled pixels only become more and never leave the
    component, so the loop ends; where it ends no run is half full. It takes a round for every two corners of the way
    that turns least; a round over a million pixels is some 40 operations over 128 KiB.

    Args:
      mask_YX: bool.
      seed_2: int32 x, y; within the canvas.

    Returns:
      bool ``[Y, X]``; all False where the seed is not in the mask.
    """
    rows, columns = mask_YX.shape
    words_YN = _pack(mask_YX)
    here_YX = (jnp.arange(rows)[:, None] == seed_2[1]) & (jnp.arange(columns)[None] == seed_2[0])
    ways = [(axis, *_crossings(words_YN, axis, sign)) for axis in (1, 0) for sign in (1, -1)]

    def sweep(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        filled_YN = carry[0]
        for axis, by_K, may_KYN in ways:
            cross = lambda filled_YN, k, axis=axis: (filled_YN | (k[1] & _moved(filled_YN, axis, k[0])), None)  # noqa: E731
            filled_YN, _ = jax.lax.scan(cross, filled_YN, (by_K, may_KYN))
        return filled_YN, jnp.any(filled_YN != carry[0])

    start_YN = _pack(here_YX) & words_YN
    filled_YN, _ = jax.lax.while_loop(lambda carry: carry[1], sweep, (start_YN, jnp.any(start_YN != 0)))
    return _unpack(filled_YN, columns)


def _crossings(words_YN: Array, axis: int, sign: int) -> tuple[Array, Array]:
    """Strides 1, 2, 4 … as far as the axis needs, and the pixels that a stride of the mask alone leads to.

    Loops over strides, here and in the fill: unrolled, the compiler fuses the chain of shifts and works out its
    beginning again and again.

    Returns:
      Signed strides int32 ``[K]``; uint32 ``[K, Y, N]``.
    """
    size = words_YN.shape[0] if axis == 0 else words_YN.shape[1] * WORD
    by_K = jnp.array([sign << k for k in range((size - 1).bit_length())] or [sign], jnp.int32)
    step = lambda may_YN, by: (may_YN & _moved(may_YN, axis, by), may_YN)  # noqa: E731
    return by_K, jax.lax.scan(step, words_YN, by_K)[1]


def _moved(words_YN: Array, axis: int, by: Array) -> Array:
    """Every pixel ``by`` places further along an axis, back where that is negative; none come in."""
    if axis == 0:
        return _shifted(words_YN, axis, by)
    words, bits = by // WORD, (by % WORD).astype(jnp.uint32)  # rounded down: -1 is 31 bits on, one word back
    near_YN, far_YN = _shifted(words_YN, axis, words), _shifted(words_YN, axis, words + 1)
    return (near_YN << bits) | ((far_YN >> 1) >> (WORD - 1 - bits))


def _shifted(words_YN: Array, axis: int, by: Array) -> Array:
    size = words_YN.shape[axis]
    wide = jnp.pad(words_YN, [(size, size) if k == axis else (0, 0) for k in range(2)])
    return jax.lax.dynamic_slice_in_dim(wide, size - by, size, axis=axis)


def _pack(mask_YX: Array) -> Array:
    """Bit k of word n is pixel 32 n + k: uint32 ``[Y, N]``."""
    rows, columns = mask_YX.shape
    wide = jnp.pad(mask_YX, ((0, 0), (0, -columns % WORD))).reshape(rows, -1, WORD)
    bits = wide.astype(jnp.uint32) << jnp.arange(WORD, dtype=jnp.uint32)[None, None]
    return jnp.sum(bits, axis=-1, dtype=jnp.uint32)


def _unpack(words_YN: Array, columns: int) -> Array:
    bits = words_YN[..., None] >> jnp.arange(WORD, dtype=jnp.uint32)[None, None]
    return (bits & 1).astype(bool).reshape(words_YN.shape[0], -1)[:, :columns]
