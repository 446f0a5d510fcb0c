"""Totals of the fixed scorer over a benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from medvista_jax.evaluation.scorers.fixed import Item, Score


@dataclasses.dataclass(frozen=True)
class Total:
    """Counts of some questions. ``f1`` and ``recall`` are means over the open ones; None where there are none."""

    total: int
    right: int
    unparsable: int
    f1: float | None = None
    recall: float | None = None

    @property
    def accuracy(self) -> float | None:
        """``right / total``; None for no question."""
        return self.right / self.total if self.total else None


def summary(
    items: Sequence[Item], scores: Sequence[Score], verdicts: Mapping[int, bool] | None = None
) -> dict[str, Total]:
    """Counts of all, open and closed questions. Every question counts once.

    Args:
      items: the questions.
      scores: of their replies, in the same order.
      verdicts: a judge's, by the number of the question. They decide open questions in place of exact match; closed
        ones are decided by rule and stay as they are.

    Returns:
      ``"all"``, ``"open"`` and ``"closed"``.

    Raises:
      ValueError: as many scores as items are needed, and verdicts for open questions only.
    """
    if len(items) != len(scores):
        raise ValueError(f"{len(items)} items and {len(scores)} scores: give one score for each item")
    verdicts = verdicts or {}
    for number in verdicts:
        if not 0 <= number < len(items) or items[number].kind != "open":
            raise ValueError(f"a verdict is given for question {number}, which is none of the open ones")
    opened = [number for number, item in enumerate(items) if item.kind == "open"]
    closed = [number for number, item in enumerate(items) if item.kind != "open"]
    parts = {"all": [*opened, *closed], "open": opened, "closed": closed}
    return {name: _total(numbers, scores, verdicts) for name, numbers in parts.items()}


def _total(numbers: Sequence[int], scores: Sequence[Score], verdicts: Mapping[int, bool]) -> Total:
    right = sum(verdicts.get(number, scores[number].correct) for number in numbers)
    chosen = [scores[number] for number in numbers]
    f1, recall = (
        [value for score in chosen if (value := getattr(score, name)) is not None] for name in ("f1", "recall")
    )
    means = [sum(values) / len(values) if values else None for values in (f1, recall)]
    return Total(len(chosen), right, sum(score.unparsable for score in chosen), *means)
