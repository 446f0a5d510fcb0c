"""Answers made comparable, byte for byte alike on host and device.

ASCII letters become lower case; every run of other ASCII bytes than letters and digits becomes one space,
none at the ends. Two marks stay because numbers would change without them: a point between two digits, and a
minus before a digit that follows no letter, digit or byte from 0x80. Bytes from 0x80 stay as they are.
Articles stay ("A" is an answer).
"""

from __future__ import annotations

import re

import jax.numpy as jnp

from medvista_jax.core.types import Array

_KEPT = re.compile(rb"(?<=[0-9])\.(?=[0-9])|(?<![0-9A-Za-z\x80-\xff])-(?=[0-9])|[0-9A-Za-z\x80-\xff]")


def normalise(text: str | bytes) -> bytes:
    """The normal form of an answer. A string is taken as UTF-8; any bytes are allowed."""
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    out, end = bytearray(), 0
    for match in _KEPT.finditer(raw):
        if match.start() > end and out:
            out += b" "
        out += match[0].lower()
        end = match.end()
    return bytes(out)


def normalise_bytes(bytes_BN: Array, length_B: Array) -> tuple[Array, Array]:
    """:func:`normalise` of each row.

    Args:
      bytes_BN: uint8; what stands behind ``length_B`` does not count.
      length_B: int32.

    Returns:
      uint8 [B, N], zero-padded, and int32 [B] lengths.
    """
    rows, size = bytes_BN.shape
    used_BN = jnp.arange(size)[None] < length_B[:, None]
    byte_BN = jnp.where(used_BN, bytes_BN, 0).astype(jnp.int32)
    byte_BN = byte_BN + jnp.where((byte_BN >= ord("A")) & (byte_BN <= ord("Z")), 32, 0)
    digit_BN = (byte_BN >= ord("0")) & (byte_BN <= ord("9"))
    word_BN = digit_BN | ((byte_BN >= ord("a")) & (byte_BN <= ord("z"))) | (byte_BN >= 0x80)

    def before(x_BN: Array) -> Array:
        return jnp.pad(x_BN, ((0, 0), (1, 0)))[:, :-1]

    def after(x_BN: Array) -> Array:
        return jnp.pad(x_BN, ((0, 0), (0, 1)))[:, 1:]

    point_BN = (byte_BN == ord(".")) & before(digit_BN) & after(digit_BN)
    minus_BN = (byte_BN == ord("-")) & ~before(word_BN) & after(digit_BN)
    kept_BN = word_BN | point_BN | minus_BN
    earlier_BN = jnp.cumsum(kept_BN, axis=1) - kept_BN > 0
    spaced_BN = kept_BN & ~before(kept_BN) & earlier_BN
    end_BN = jnp.cumsum(kept_BN.astype(jnp.int32) + spaced_BN, axis=1)
    place_BN = jnp.where(kept_BN, end_BN - 1, size)
    out_BN = jnp.zeros((rows, size), jnp.int32)
    out_BN = out_BN.at[jnp.arange(rows)[:, None], place_BN].set(byte_BN, mode="drop")
    n_B = end_BN[:, -1]
    gap_BN = (out_BN == 0) & (jnp.arange(size)[None] < n_B[:, None])
    return jnp.where(gap_BN, ord(" "), out_BN).astype(jnp.uint8), n_B


def answers_equal(answer_BN: Array, length_B: Array, key_BN: Array) -> Array:
    """bool [B]: the answer is, byte for byte, the key, and is not empty. Normalise both before.

    Args:
      answer_BN: uint8 [B, N].
      length_B: int32.
      key_BN: uint8 [B, N'], zero-padded; N' may differ from N.
    """
    width = max(answer_BN.shape[1], key_BN.shape[1])
    answer_BN = jnp.where(jnp.arange(answer_BN.shape[1])[None] < length_B[:, None], answer_BN, 0)
    answer_BN = jnp.pad(answer_BN, ((0, 0), (0, width - answer_BN.shape[1])))
    key_BN = jnp.pad(key_BN, ((0, 0), (0, width - key_BN.shape[1])))
    return jnp.all(answer_BN == key_BN, axis=1) & (length_B > 0)
