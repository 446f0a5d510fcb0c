"""Which questions to ask next: a seeded draw whose weights follow pass rates and the progress of training.

Groups whose every answer is right, or wrong, have no advantage and teach a policy-gradient method nothing; the variance
of a right-or-wrong reward, ``p (1 - p)``, is largest at half. Hence the window (DAPO drops such groups after they were
sampled, arXiv 2503.14476; here they are drawn less often before). SFT gains more from an order, easy to hard (Bengio et
al., *Curriculum Learning*, ICML 2009).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from medvista_jax.data.trajectories.select import PassRate


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Weights of questions by their pass rate p and the progress t, 0 at the first step and 1 at the last.

    Attributes:
      order: "uniform": all alike. "window": 1 where ``low <= p <= high``, else ``floor``. "easy_to_hard":
        ``floor + (1 - floor) exp(-(p - c)² / (2 width²))`` with ``c`` moving from ``high`` to ``low`` as t goes from 0
        to 1.
      low, high: bounds of the window, or where the middle ends and begins.
      width: standard deviation around the middle.
      floor: least weight of a question, so that none is forgotten.
      unknown: the pass rate of a question that was never sampled.
    """

    order: Literal["uniform", "window", "easy_to_hard"] = "window"
    low: float = 0.2
    high: float = 0.8
    width: float = 0.2
    floor: float = 0.05
    unknown: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"pass rates lie in 0…1 and low below high, not low={self.low:g} and high={self.high:g}")
        if not 0 < self.floor <= 1:
            raise ValueError(
                f"floor={self.floor:g}; above 0, so that any number of questions can be drawn, and at most 1"
            )
        if self.width <= 0:
            raise ValueError(f"width={self.width:g}; it must be positive")


def weights(config: Curriculum, rates_N: np.ndarray, progress: float) -> np.ndarray:
    """float64 ``[N]`` in ``floor … 1``.

    Args:
      rates_N: pass rates, NaN where unknown.
      progress: 0…1.
    """
    rates_N = np.asarray(rates_N, np.float64)
    rates_N = np.where(np.isnan(rates_N), config.unknown, rates_N)
    if config.order == "uniform":
        return np.ones_like(rates_N)
    if config.order == "window":
        return np.where((config.low <= rates_N) & (rates_N <= config.high), 1.0, config.floor)
    middle = config.high + (config.low - config.high) * min(max(progress, 0.0), 1.0)
    near_N = np.exp(-((rates_N - middle) ** 2) / (2 * config.width**2))
    return config.floor + (1 - config.floor) * near_N


def draw_rows(
    config: Curriculum, rates_N: np.ndarray, seed: int | Sequence[int], step: int, steps: int, count: int
) -> np.ndarray:
    """int64 ``[count]`` questions of one step: a pure function of its arguments, so that a resumed run draws the same.

    Without replacement, one after the other by weight, while there are enough questions; else with.

    Args:
      seed: of the run; the step's own randomness is ``[*seed, step]``.
      step, steps: progress is ``step / (steps - 1)``.
    """
    weight_N = weights(config, rates_N, step / max(1, steps - 1))
    rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), step])
    if count > len(weight_N):
        return rng.choice(len(weight_N), count, p=weight_N / weight_N.sum())
    # Gumbel top-k draws without replacement in proportion to the weights (arXiv 1903.06059).
    key_N = np.log(weight_N) + rng.gumbel(size=len(weight_N))
    return np.argsort(-key_N, kind="stable")[:count]


def rates_of(ids: Sequence[str], rates: Mapping[str, PassRate]) -> np.ndarray:
    """float64 ``[N]`` pass rates of questions by id, NaN where there is none."""
    return np.array([rates[name].rate if name in rates else np.nan for name in ids], np.float64)


def write_pass_rates(path: Path, rates: Mapping[str, PassRate]) -> None:
    """Pass rates as JSON lines ``{"id", "family", "passed", "sampled"}``."""
    lines = [
        json.dumps({"id": name, "family": one.family, "passed": one.passed, "sampled": one.sampled})
        for name, one in rates.items()
    ]
    path.write_text("".join(line + "\n" for line in lines), encoding="ascii")


def read_pass_rates(path: Path) -> dict[str, PassRate]:
    """Such a file back.

    Raises:
      ValueError: a line that is none of these: file and line.
    """
    rates = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rate = PassRate(int(row["passed"]), int(row["sampled"]), str(row.get("family", "")))
            if not 0 <= rate.passed <= rate.sampled or rate.sampled < 1:
                raise ValueError("impossible counts")
            rates[str(row["id"])] = rate
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError(f"{path}, line {number}: an object with id, passed and sampled is wanted") from None
    return rates
