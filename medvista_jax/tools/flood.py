"""Flood fill on the device: the pixels of a mask that hang together with one of them (4-connectivity)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array
from medvista_jax.tools.words import WORD, pack, unpack

_HALVES = ((16, 0x0000FFFF), (8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555))
"""Distances of bits that change places, and which of them are the lower."""


def flood(mask_YX: Array, seed_2: Array) -> Array:
    """The component of a mask that holds a pixel.

    32 pixels of a row are one word. A round fills every run of the mask that holds a filled pixel from end to end,
    first along the rows, then along the columns. A run is filled by one addition: the carry goes from a filled pixel
    through the ones of the mask up to the run's end. Filled pixels only become more and never leave the component, so
    the loop ends; where it ends no run is half full. It takes a round for every two corners of the way that turns
    least.

    Args:
      mask_YX: bool.
      seed_2: int32 x, y; within the canvas.

    Returns:
      bool ``[Y, X]``; all False where the seed is not in the mask.
    """
    rows, columns = mask_YX.shape
    here_YX = (jnp.arange(rows)[:, None] == seed_2[1]) & (jnp.arange(columns)[None] == seed_2[0])
    mask_YN, here_YN = (pack(jnp.pad(bits_YX, ((0, -rows % WORD), (0, 0)))) for bits_YX in (mask_YX, here_YX))
    ways = [(mask_YN, _reversed(mask_YN)) for mask_YN in (mask_YN, _transposed(mask_YN))]

    def sweep(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        filled_YN = grown_YN = carry[0]
        for masks_2YN in ways:
            grown_YN = _transposed(_fill_runs(*masks_2YN, grown_YN))
        return grown_YN, jnp.any(grown_YN != filled_YN)

    start_YN = here_YN & mask_YN
    filled_YN, _ = jax.lax.while_loop(lambda carry: carry[1], sweep, (start_YN, jnp.any(start_YN != 0)))
    return unpack(filled_YN, columns)[:rows]


def _fill_runs(mask_YN: Array, reversed_YN: Array, filled_YN: Array) -> Array:
    """All of every run of the mask, along the rows, that holds a filled pixel.

    The barrier keeps the compiler from working out the sums anew for each of their many readers.
    """
    onwards_YN = filled_YN | mask_YN & ~_sum(mask_YN, filled_YN)
    back_YN = _reversed(reversed_YN & ~_sum(reversed_YN, _reversed(filled_YN)))
    return jax.lax.optimization_barrier(onwards_YN | back_YN)


def _sum(a_YN: Array, b_YN: Array) -> Array:
    """Sums of rows as long numbers, the first word the least.

    A word hands a carry on when it overflows, or when it is full and gets one. That again is an addition of long
    numbers, of a bit a word: its carries are those of the words.
    """
    sum_YN = a_YN + b_YN
    if sum_YN.shape[1] == 1:
        return sum_YN
    over_YN = sum_YN < a_YN
    gives_YM, hands_on_YM = pack(over_YN), pack(over_YN | (~sum_YN == 0))
    carry_YM = _sum(gives_YM, hands_on_YM) ^ gives_YM ^ hands_on_YM
    return sum_YN + unpack(carry_YM, sum_YN.shape[1]).astype(jnp.uint32)


def _reversed(words_YN: Array) -> Array:
    """Rows from end to end, the bits of their words too."""
    for by, low in _HALVES:
        words_YN = (words_YN >> by) & low | (words_YN & low) << by
    return words_YN[:, ::-1]


def _transposed(words_YN: Array) -> Array:
    """The columns of ``32 M`` rows as rows: uint32 ``[32 M, N] -> [32 N, M]``.

    Blocks of 32 x 32 pixels are transposed by halves (H. S. Warren, Hacker's Delight, section 7-3).
    """
    blocks, words = words_YN.shape[0] // WORD, words_YN.shape[1]
    block_MrN = words_YN.reshape(blocks, WORD, words)
    for by, low in _HALVES:
        pairs = block_MrN.reshape(blocks, WORD // (2 * by), 2, by, words)
        upper, lower = pairs[:, :, 0], pairs[:, :, 1]
        pairs = jnp.stack([upper & low | (lower & low) << by, (upper >> by) & low | lower & ~jnp.uint32(low)], axis=2)
        block_MrN = pairs.reshape(blocks, WORD, words)
    return block_MrN.transpose(2, 1, 0).reshape(words * WORD, blocks)
