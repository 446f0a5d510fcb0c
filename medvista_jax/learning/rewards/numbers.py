"""Answers read as numbers, on the device."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.types import AnswerKey, Array
from medvista_jax.text.normalise import normalise_bytes


def number_of(answer_BN: Array, length_B: Array) -> tuple[Array, Array]:
    """float32 ``[B]`` values and bool ``[B]``: the whole answer is one decimal number such as ``-3.50``.

    Read after normalisation, so marks around the number do not matter; an exponent or a thousands separator is none.
    """
    text_BN, size_B = normalise_bytes(answer_BN, length_B)
    byte_BN = text_BN.astype(jnp.int32)
    used_BN = jnp.arange(byte_BN.shape[1])[None, :] < size_B[:, None]
    digit_BN = (byte_BN >= ord("0")) & (byte_BN <= ord("9")) & used_BN
    point_BN = (byte_BN == ord(".")) & used_BN
    minus_B = byte_BN[:, 0] == ord("-")
    first_BN = (jnp.arange(byte_BN.shape[1]) == 0)[None, :]
    allowed_BN = digit_BN | point_BN | ~used_BN | (first_BN & minus_B[:, None])
    is_number_B = jnp.all(allowed_BN, axis=1) & jnp.any(digit_BN, axis=1) & (jnp.sum(point_BN, axis=1) <= 1)
    behind_BN = jnp.cumsum(point_BN, axis=1) > 0
    places_B = jnp.sum(digit_BN & behind_BN, axis=1)
    later_BN = jnp.cumsum(digit_BN[:, ::-1], axis=1)[:, ::-1] - digit_BN
    power_BN = (later_BN - places_B[:, None]).astype(jnp.float32)
    value_B = jnp.sum(jnp.where(digit_BN, (byte_BN - ord("0")) * 10.0**power_BN, 0.0), axis=1)
    return jnp.where(minus_B, -value_B, value_B), is_number_B


def numbers_of_key(key: AnswerKey, rows: int) -> tuple[Array, Array]:
    """The keys as numbers, repeated for the rows of their groups."""
    each = lambda x_P: jnp.repeat(x_P, rows // key.answer_PN.shape[0], axis=0)  # noqa: E731
    value_P, is_number_P = number_of(key.answer_PN, jnp.sum(key.answer_PN > 0, axis=1))
    return each(value_P), each(is_number_P)
