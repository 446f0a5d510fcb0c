"""Which sampled trajectories are worth learning from, and why the others are not."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from medvista_jax.core.types import Fault
from medvista_jax.data.trajectories.record import Record, Turn

NGRAM = 4
SHORTEST = 16
"""Turns of fewer words or ids count as this long: one repeated bracket is no repetition."""

_SPACE = re.compile(r"\s+")


@dataclasses.dataclass(frozen=True)
class Filter:
    """What is kept.

    Attributes:
      correct: the answer is the true one. Records without a known answer fail.
      well_formed: every turn is thoughts and one action, and the last one answers.
      no_faults: the environment refused no call.
      repetition: largest share of 4-grams of a turn (of its ids, else of its words) that occurred before in it.
      easiest, hardest: bounds of the question's pass rate; questions above and below are too easy and too hard.
      duplicates: of trajectories with the same question and the same turns but for case and spaces one is kept.
      per_question: most trajectories of a question, 0 for all.
    """

    correct: bool = True
    well_formed: bool = True
    no_faults: bool = False
    repetition: float = 0.3
    easiest: float = 1.0
    hardest: float = 0.0
    duplicates: bool = True
    per_question: int = 0


@dataclasses.dataclass(frozen=True)
class PassRate:
    """How often a question was answered right."""

    passed: int
    sampled: int
    family: str = ""

    @property
    def rate(self) -> float:
        return self.passed / self.sampled


REASONS = (
    "wrong answer",
    "not well formed",
    "refused call",
    "repetition",
    "too easy",
    "too hard",
    "duplicate",
    "enough of the question",
)
"""Why a trajectory is not kept: the first of these that holds."""


def pass_rates(records: Iterable[Record]) -> dict[str, PassRate]:
    """Of each question, in the order in which they come; records whose outcome is open do not count."""
    passed: collections.Counter = collections.Counter()
    sampled: collections.Counter = collections.Counter()
    family: dict[str, str] = {}
    for record in records:
        if record.outcome.correct is None:
            continue
        family.setdefault(record.id, record.family)
        sampled[record.id] += 1
        passed[record.id] += record.outcome.correct
    return {name: PassRate(passed[name], sampled[name], family[name]) for name in family}


def repeated_share(turn: Turn) -> float:
    """Share of a turn's 4-grams that occurred before in it."""
    parts: Sequence = turn.ids if turn.ids is not None else turn.text.split()
    grams = [tuple(parts[at : at + NGRAM]) for at in range(len(parts) - NGRAM + 1)]
    return (len(grams) - len(set(grams))) / max(len(parts), SHORTEST)


def same_words(record: Record) -> tuple[str, ...]:
    """What makes two trajectories the same: the question and the turns without case and spaces."""
    return (record.id, record.question, *(_SPACE.sub("", turn.text).lower() for turn in record.turns))


def judge(records: Iterable[Record], config: Filter, rates: Mapping[str, PassRate]) -> Iterator[tuple[Record, str]]:
    """Every record with the reason why it is not kept, "" where it is. Which of equal ones is kept: the first."""
    seen: set[tuple[str, ...]] = set()
    kept: collections.Counter = collections.Counter()
    for record in records:
        reason = _fault_of(record, config, rates)
        words = same_words(record)
        if not reason and config.duplicates and words in seen:
            reason = "duplicate"
        if not reason and config.per_question and kept[record.id] >= config.per_question:
            reason = "enough of the question"
        if not reason:
            seen.add(words)
            kept[record.id] += 1
        yield record, reason


def _fault_of(record: Record, config: Filter, rates: Mapping[str, PassRate]) -> str:
    """What is wrong with a record by itself."""
    if config.correct and record.outcome.correct is not True:
        return "wrong answer"
    if config.well_formed and not record.outcome.well_formed:
        return "not well formed"
    if config.no_faults and any(turn.fault not in ("", Fault.NONE.name) for turn in record.turns):
        return "refused call"
    if any(repeated_share(turn) > config.repetition for turn in record.turns):
        return "repetition"
    rate = rates[record.id].rate if record.id in rates else None
    if rate is not None and rate > config.easiest:
        return "too easy"
    if rate is not None and rate < config.hardest:
        return "too hard"
    return ""


def fates_table(fates: Mapping[str, Mapping[str, int]]) -> str:
    """Markdown: of each family how many were kept, and why the others were not.

    Args:
      fates: family to reason to count, "" for kept.
    """
    used = [reason for reason in REASONS if any(counts.get(reason) for counts in fates.values())]
    everything: collections.Counter = collections.Counter()
    for counts in fates.values():
        everything.update(counts)
    lines = [
        "| " + " | ".join(["family", "sampled", "kept", *used]) + " |",
        "|---|" + "---:|" * (len(used) + 2),
    ]
    for family, counts in [*sorted(fates.items()), ("all", everything)]:
        cells = [sum(counts.values()), counts.get("", 0), *(counts.get(reason, 0) for reason in used)]
        lines.append(f"| {family or '(none)'} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
