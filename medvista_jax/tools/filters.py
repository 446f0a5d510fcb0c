"""Separable filters over displayed levels, ``[h, w]`` or ``[h, w, C]``."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array


def separable(levels_hw: Array, down_N: Array, right_N: Array) -> Array:
    """Correlation with ``down_N`` along columns and ``right_N`` along rows, N odd; edge pixels repeat beyond the edge.

    A sum of shifted images, not a convolution: under ``vmap`` every row has weights of its own, and a convolution
    would become a grouped one, slow on every device.
    """
    return _along(_along(levels_hw, down_N, 0), right_N, 1)


def _along(levels_hw: Array, weights_N: Array, axis: int) -> Array:
    taps, size = weights_N.shape[0], levels_hw.shape[axis]
    reach = [(0, 0)] * levels_hw.ndim
    reach[axis] = (taps // 2, taps // 2)
    padded_hw = jnp.pad(levels_hw, reach, mode="edge")
    moved = (jax.lax.slice_in_dim(padded_hw, n, n + size, axis=axis) for n in range(taps))
    return sum(weights_N[n] * part_hw for n, part_hw in enumerate(moved))
