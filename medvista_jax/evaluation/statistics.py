"""Intervals and tests for accuracies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.special

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def wilson_interval(correct: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson, JASA 22:209, 1927), fractions in 0…1.

    Unlike the normal approximation it keeps its coverage near 0 and 1, where a solved task ends up.

    Args:
      correct: number right.
      n: number of items; ``(0.0, 1.0)`` when there are none.
      z: normal quantile, 1.96 for 95 %.

    Raises:
      ValueError: ``correct`` is not in 0…n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} right of {n}")
    if n == 0:
        return 0.0, 1.0
    p = correct / n
    scale = 1 / (1 + z * z / n)
    centre = scale * (p + z * z / (2 * n))
    half = scale * z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the formula equals 0 or 1; rounding would leave 1e-17 on the wrong side.
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return low, high


def crossed_bootstrap(values_SN: np.ndarray, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Means of resamples where seeds and items are drawn apart, each with replacement: the pigeonhole bootstrap (Owen,
    Annals of Applied Statistics 1:386, 2007).

    An item that is hard for one seed is hard for the next, so that ``S · N`` outcomes are fewer than they look; and a
    few seeds say little of others. This interval, wider than one of pooled outcomes, takes account of both.

    Args:
      values_SN: a value for each seed and item, such as 0 and 1, or differences of two of these.
      resamples: how many.
      seed: of the resampling.

    Returns:
      float64 ``[resamples]``; quantiles of it are an interval.

    Raises:
      ValueError: not two axes, or an empty one.
    """
    values_SN = np.asarray(values_SN, np.float64)
    if values_SN.ndim != 2 or 0 in values_SN.shape:
        raise ValueError(f"values of seeds and items are needed, [S, N], not {values_SN.shape}")
    seeds, items = values_SN.shape
    rng = np.random.default_rng(seed)
    # How often each is drawn, instead of which are drawn.
    drawn_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    drawn_RN = rng.multinomial(items, np.full(items, 1 / items), size=resamples)
    return np.einsum("rn,rn->r", drawn_RS @ values_SN, drawn_RN) / (seeds * items)


@dataclasses.dataclass(frozen=True)
class Difference:
    """``mean`` of ``a - b`` as a fraction, its 95 % interval, and the share of resamples with no gain of
    ``a``.
    """

    mean: float
    low: float
    high: float
    not_better: float


def paired_bootstrap(a_N: np.ndarray, b_N: np.ndarray, resamples: int = 10_000, seed: int = 0) -> Difference:
    """Percentile bootstrap over items of the difference of two accuracies on the *same* items.

    Only the numbers of items where ``a`` alone and ``b`` alone is right matter, so a resample is one draw
    from a multinomial distribution instead of N indices.

    Args:
      a_N, b_N: bool or 0/1, entry i of both belongs to item i.
      resamples: how many.
      seed: of the resampling.

    Raises:
      ValueError: shapes differ, no items, or values other than 0 and 1.
    """
    a_only, b_only, n = _discordant(a_N, b_N)
    if n == 0:
        raise ValueError("no items")
    shares = np.array([a_only, b_only, n - a_only - b_only]) / n
    draws = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    differences = (draws[:, 0] - draws[:, 1]) / n
    low, high = np.quantile(differences, [0.025, 0.975])
    return Difference((a_only - b_only) / n, float(low), float(high), float(np.mean(differences <= 0)))


def mcnemar_exact(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Two-sided exact p-value that two paired correctness vectors have the same accuracy (McNemar 1947).

    Of the items that exactly one gets right, each is a fair coin under the hypothesis.

    Args:
      a_N, b_N: bool or 0/1, entry i of both belongs to item i.

    Returns:
      p in (0, 1]; 1 when they never disagree.

    Raises:
      ValueError: shapes differ, or values other than 0 and 1.
    """
    a_only, b_only, _ = _discordant(a_N, b_N)
    n = a_only + b_only
    tail = sum(math.comb(n, k) for k in range(min(a_only, b_only) + 1))
    # Integers until the last division: the powers of two overflow a float past a thousand items.
    return min(1.0, 2 * tail / 2**n)


@dataclasses.dataclass(frozen=True)
class McNemar:
    """A comparison of two checkpoints on the same items.

    Attributes:
      a_only, b_only: items that one of them alone gets right.
      p: two-sided.
      method: "exact", "mid-p" or "chi2 with continuity correction".
    """

    a_only: int
    b_only: int
    p: float
    method: str


def mcnemar(a_N: np.ndarray, b_N: np.ndarray, method: Literal["exact", "mid-p", "chi2"] = "exact") -> McNemar:
    """McNemar's test (Psychometrika 12:153, 1947) with what it rests on.

    Args:
      a_N, b_N: bool or 0/1, entry i of both belongs to item i.
      method: ``"exact"``, the binomial test, never too bold and right for any number of items; ``"mid-p"`` counts what
        was seen by half (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91, 2013); ``"chi2"`` is
        Edwards' continuity correction, for 25 items and more on which the two differ.

    Raises:
      ValueError: shapes differ, values other than 0 and 1, or another method.
    """
    a_only, b_only, _ = _discordant(a_N, b_N)
    n, fewer = a_only + b_only, min(a_only, b_only)
    if method == "exact":
        return McNemar(a_only, b_only, mcnemar_exact(a_N, b_N), method)
    if method == "mid-p":
        # At equality both tails hold the middle, and the sum is 1 without it being counted twice.
        tail = 2 * sum(math.comb(n, k) for k in range(fewer + 1)) - math.comb(n, fewer)
        return McNemar(a_only, b_only, 1.0 if a_only == b_only else tail / 2**n, method)
    if method == "chi2":
        statistic = max(abs(a_only - b_only) - 1, 0) ** 2 / n if n else 0.0
        return McNemar(a_only, b_only, math.erfc(math.sqrt(statistic / 2)), "chi2 with continuity correction")
    raise ValueError(f"method {method!r} is not exact, mid-p or chi2")


@dataclasses.dataclass(frozen=True)
class SeedMean:
    """``mean`` of ``n`` seeds, its 95 % interval and the standard deviation between seeds; None for one seed."""

    n: int
    mean: float
    low: float | None
    high: float | None
    deviation: float | None


def mean_over_seeds(values: Sequence[float]) -> SeedMean:
    """Mean of a quantity over runs with other seeds, with Student's interval: ``mean ± t(0.975, n - 1) s / √n``.

    It says how much runs differ, not how much items do: for that see :func:`wilson_interval` and
    :func:`paired_bootstrap`.

    Args:
      values: one a seed, such as accuracies in 0…1; the interval is not cut off there.

    Raises:
      ValueError: no value, or one that is not finite.
    """
    values_N = np.asarray(values, np.float64)
    if values_N.ndim != 1 or not len(values_N) or not np.isfinite(values_N).all():
        raise ValueError(f"finite values of one seed or more are needed, not {list(values)}")
    n, mean = len(values_N), float(values_N.mean())
    if n == 1:
        return SeedMean(1, mean, None, None, None)
    deviation = float(values_N.std(ddof=1))
    half = float(scipy.special.stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)
    return SeedMean(n, mean, mean - half, mean + half, deviation)


def _discordant(a_N: np.ndarray, b_N: np.ndarray) -> tuple[int, int, int]:
    a_N, b_N = np.asarray(a_N), np.asarray(b_N)
    if a_N.ndim != 1 or a_N.shape != b_N.shape:
        raise ValueError(f"two vectors of the same items are needed, not {a_N.shape} and {b_N.shape}")
    if not (np.isin(a_N, (0, 1)).all() and np.isin(b_N, (0, 1)).all()):
        raise ValueError("correctness is 0 or 1")
    a_N, b_N = a_N.astype(bool), b_N.astype(bool)
    return int(np.sum(a_N & ~b_N)), int(np.sum(b_N & ~a_N)), a_N.size
