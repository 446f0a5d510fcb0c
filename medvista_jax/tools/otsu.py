"""Otsu's threshold (1979): the one that parts grey values into the two tightest classes."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.types import Array

BINS = 256


def otsu(value_YX: Array, within_YX: Array) -> Array:
    """The largest value of the lower class.

    A bin holds one whole number where the values span at most ``BINS`` of them, as 8-bit images do; else as few
    neighbours as need be, the first bin beginning at the smallest value. Of thresholds as good as each other the
    smallest is taken. Up to there it is ``skimage.filters.threshold_otsu`` of the integers.

    Args:
      value_YX: float32 whole numbers.
      within_YX: bool, the pixels that count; at most 2**23 of them.

    Returns:
      float32, a whole number: ``value > threshold`` is the upper class. Of one single value that value; 0 of none.
    """
    lowest = jnp.min(jnp.where(within_YX, value_YX, jnp.inf))
    highest = jnp.max(jnp.where(within_YX, value_YX, -jnp.inf))
    lowest, highest = (jnp.where(jnp.isfinite(end), end, 0.0) for end in (lowest, highest))
    width = jnp.maximum(jnp.ceil((highest - lowest + 1.0) / BINS), 1.0)
    bin_YX = jnp.clip(jnp.floor((value_YX - lowest) / width), 0, BINS - 1).astype(jnp.int32)
    counts_N = jnp.zeros((BINS,), jnp.int32).at[bin_YX.ravel()].add(within_YX.ravel().astype(jnp.int32))
    best = jnp.argmax(_between_classes(counts_N)[:-1])
    return jnp.minimum(lowest + (best + 1).astype(jnp.float32) * width - 1.0, highest)


def _between_classes(counts_N: Array) -> Array:
    """Variance between the classes that each bin as the last of the lower one makes, times a constant.

    Sums are integers about the overall mean, so that empty bins leave them as they are to the last bit, and the two
    class means, one on either side of it, are subtracted without cancellation.
    """
    bins_N = jnp.arange(counts_N.shape[0], dtype=jnp.int32)
    total = jnp.sum(counts_N)
    middle = jnp.sum(counts_N * bins_N) // jnp.maximum(total, 1)
    below_N = jnp.cumsum(counts_N)
    moment_N = jnp.cumsum(counts_N * (bins_N - middle))
    above_N = total - below_N
    mean_N = lambda moment_N, count_N: moment_N.astype(jnp.float32) / jnp.maximum(count_N, 1).astype(jnp.float32)  # noqa: E731
    apart_N = mean_N(moment_N, below_N) - mean_N(moment_N[-1] - moment_N, above_N)
    return below_N.astype(jnp.float32) * above_N.astype(jnp.float32) * apart_N**2
