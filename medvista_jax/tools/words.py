"""Masks as words: 32 pixels of a row in a uint32."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array

WORD = 32


def pack(mask_YX: Array) -> Array:
    """Bit k of word n is pixel 32 n + k: uint32 ``[Y, N]``."""
    rows, columns = mask_YX.shape
    wide = jnp.pad(mask_YX, ((0, 0), (0, -columns % WORD))).reshape(rows, -1, WORD)
    bits = wide.astype(jnp.uint32) << jnp.arange(WORD, dtype=jnp.uint32)[None, None]
    return jnp.sum(bits, axis=-1, dtype=jnp.uint32)


def ranks(mask_YX: Array) -> tuple[Array, Array]:
    """How many pixels of the mask come up to and with each pixel in reading order, int32 ``[Y, X]``; how many in all.

    A running sum over words, and a count of bits within each.
    """
    words_YN = pack(mask_YX)
    count_YN = jax.lax.population_count(words_YN).astype(jnp.int32)
    up_to_YN = jnp.cumsum(count_YN.ravel()).reshape(count_YN.shape)
    low_K = jnp.uint32(0xFFFFFFFF) >> (WORD - 1 - jnp.arange(WORD, dtype=jnp.uint32))
    within_YNK = jax.lax.population_count(words_YN[..., None] & low_K[None, None]).astype(jnp.int32)
    rank_YX = ((up_to_YN - count_YN)[..., None] + within_YNK).reshape(mask_YX.shape[0], -1)
    return rank_YX[:, : mask_YX.shape[1]], up_to_YN[-1, -1]


def unpack(words_YN: Array, columns: int) -> Array:
    """The mask, bool ``[Y, X]``."""
    bits = words_YN[..., None] >> jnp.arange(WORD, dtype=jnp.uint32)[None, None]
    return (bits & 1).astype(bool).reshape(words_YN.shape[0], -1)[:, :columns]
