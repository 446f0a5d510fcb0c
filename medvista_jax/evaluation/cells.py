"""Cells of a table: outcomes of one policy on one set of items, kept as JSON files, and the numbers made of them.

A cell's file is named by the fingerprint of all that decides it. What is there is not computed again, by any table.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvista_jax.evaluation.statistics import Difference, crossed_bootstrap, paired_bootstrap, wilson_interval


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What came out, item by item; numpy ``[N]`` each.

    Attributes:
      items: ids.
      groups: of each item, by name of the grouping: such as ``{"needs": …, "set": …}``.
      correct: bool.
      calls: int32 tool calls attempted.
      seed: of the policy.
      seconds: wall time.
    """

    items: np.ndarray
    groups: Mapping[str, np.ndarray]
    correct: np.ndarray
    calls: np.ndarray
    seed: int
    seconds: float

    def __post_init__(self) -> None:
        n = len(self.items)
        for name, values in {"correct": self.correct, "calls": self.calls, **self.groups}.items():
            if len(values) != n:
                raise ValueError(f"{n} items, but {len(values)} of {name}")

    def part(self, chosen_N: np.ndarray) -> Outcomes:
        """Of some of the items: bool ``[N]``."""
        groups = {name: values[chosen_N] for name, values in self.groups.items()}
        return dataclasses.replace(
            self,
            items=self.items[chosen_N],
            groups=groups,
            correct=self.correct[chosen_N],
            calls=self.calls[chosen_N],
        )

    def group(self, name: str, value: str) -> Outcomes:
        """Of the items of a group; of all for ``"all"``."""
        return self if value == "all" else self.part(self.groups[name] == value)


class CellStore:
    """A folder of cells, shared by all tables.

    Args:
      folder: is made.
      note: says what is odd, a line at a time.
    """

    def __init__(self, folder: str | Path, note: Callable[[str], None] = lambda line: None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._note = note

    def path(self, identity: str) -> Path:
        """Where the cell of this fingerprint is, or will be."""
        return self.folder / f"{identity}.json"

    def get(self, identity: str) -> Outcomes | None:
        """The cell, or None where it has to be computed: it is missing, or its file is damaged."""
        path = self.path(identity)
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["identity"] != identity:
                raise ValueError(f"it holds the cell {held['identity']}")
            return Outcomes(
                items=np.array(held["items"]),
                groups={name: np.array(values) for name, values in held["groups"].items()},
                correct=np.array(held["correct"], bool),
                calls=np.array(held["calls"], np.int32),
                seed=int(held["seed"]),
                seconds=float(held["seconds"]),
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            self._note(f"{path} is damaged and computed again: {error}")
            return None

    def put(self, identity: str, settings: Any, outcomes: Outcomes) -> None:
        """Keep a finished cell. A kill leaves the whole file or none.

        Args:
          settings: JSON for people: what the fingerprint stands for.
        """
        held = {
            "identity": identity,
            "settings": settings,
            "seed": outcomes.seed,
            "seconds": round(outcomes.seconds, 2),
            "correct": outcomes.correct.astype(int).tolist(),
            "calls": outcomes.calls.tolist(),
            "items": outcomes.items.tolist(),
            "groups": {name: values.tolist() for name, values in outcomes.groups.items()},
        }
        path = self.path(identity)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(held, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        os.replace(unfinished, path)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A proportion with its interval, fractions 0…1.

    Attributes:
      mean: over seeds and items.
      low, high: 95 %.
      n: items of one seed.
      seeds: the seeds.
      interval: ``"Wilson"``, or ``"bootstrap over seeds and items"``.
    """

    mean: float
    low: float
    high: float
    n: int
    seeds: tuple[int, ...]
    interval: str

    def text(self) -> str:
        """``94.1 (92.3–95.4)`` in percent."""
        return f"{100 * self.mean:.1f} ({100 * self.low:.1f}–{100 * self.high:.1f})"


WILSON, CROSSED = "Wilson", "bootstrap over seeds and items"


def same_items(runs: Sequence[Outcomes]) -> bool:
    """Whether all are of the same items in the same order."""
    return all(np.array_equal(run.items, runs[0].items) for run in runs)


def estimate(runs: Sequence[Outcomes]) -> Estimate:
    """Accuracy over the seeds of one policy.

    One seed gets Wilson's interval, several that of
    :func:`medvista_jax.evaluation.statistics.crossed_bootstrap`. Where all outcomes are alike a bootstrap knows no
    spread: there it is Wilson's of one seed's items.

    Raises:
      ValueError: no runs, no items, or seeds with other items.
    """
    if not runs or not len(runs[0].items):
        raise ValueError("an estimate needs runs with items")
    if not same_items(runs):
        raise ValueError("seeds of one cell must answer the same items")
    seeds = tuple(run.seed for run in runs)
    correct_SN = np.stack([run.correct for run in runs])
    mean, n = float(correct_SN.mean()), correct_SN.shape[1]
    if len(runs) == 1 or mean in (0.0, 1.0):
        return Estimate(mean, *wilson_interval(int(correct_SN[0].sum()), n), n, seeds, WILSON)
    low, high = np.quantile(crossed_bootstrap(correct_SN), [0.025, 0.975])
    return Estimate(mean, float(low), float(high), n, seeds, CROSSED)


def difference(runs: Sequence[Outcomes], base: Sequence[Outcomes]) -> Difference | None:
    """Paired difference to a base on the same items, seed by seed; None where items or seeds are not the same.

    With one seed by :func:`medvista_jax.evaluation.statistics.paired_bootstrap`, with several by the crossed one.
    """
    if not runs or not base or not same_items([*runs, *base]) or not len(runs[0].items):
        return None
    if [run.seed for run in runs] != [run.seed for run in base]:
        return None
    if len(runs) == 1:
        return paired_bootstrap(runs[0].correct, base[0].correct)
    gain_SN = np.stack([a.correct.astype(float) - b.correct for a, b in zip(runs, base, strict=True)])
    drawn = crossed_bootstrap(gain_SN)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Difference(float(gain_SN.mean()), float(low), float(high), float(np.mean(drawn <= 0)))


def calls_per_question(runs: Sequence[Outcomes]) -> float:
    """Mean over seeds and items; NaN without items."""
    calls = np.concatenate([run.calls for run in runs])
    return float(calls.mean()) if len(calls) else math.nan


@dataclasses.dataclass(frozen=True)
class Shift:
    """What tools do to items that a base answers without: counts over seeds and items.

    Attributes:
      right: of the base; ``lost`` of these are wrong now, and ``calls`` went to them.
      wrong: of the base; ``won`` of these are right now.
    """

    right: int
    lost: int
    calls: int
    wrong: int
    won: int


def shift(runs: Sequence[Outcomes], base: Sequence[Outcomes]) -> Shift:
    """Over-tooling: calls on items that the base gets right without tools, and what becomes of them.

    Raises:
      ValueError: other items or another number of seeds.
    """
    if len(runs) != len(base) or not same_items([*runs, *base]):
        raise ValueError("a shift needs the same seeds and items on both sides")
    now, before = (np.concatenate([run.correct for run in side]) for side in (runs, base))
    calls = np.concatenate([run.calls for run in runs])
    return Shift(
        right=int(before.sum()),
        lost=int((before & ~now).sum()),
        calls=int(calls[before].sum()),
        wrong=int((~before).sum()),
        won=int((~before & now).sum()),
    )
