"""What a protocol is: which questions, asked how, scored how. Two protocols' numbers do not compare."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medvista_jax.data.benchmarks import BENCHMARKS, BadFile, BenchmarkItem, Questions
from medvista_jax.evaluation.scorers import Item, Score, score
from medvista_jax.evaluation.scorers.base import UpstreamFails


@dataclasses.dataclass(frozen=True)
class Ask:
    """What a policy is shown of a question. The answer is not here.

    Attributes:
      set: name of the set within its protocol.
      id: the question's, unique within its set.
      text: of the user's message, behind the images.
      images: encoded files, in order.
    """

    set: str
    id: str
    text: str
    images: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """A question as a protocol asks it.

    Attributes:
      ask: for the policy.
      item: the benchmark's own.
      options: text by letter as shown in ``ask.text``; None where none are shown.
      answer: what the fixed scorer compares with: a letter where there are options.
    """

    ask: Ask
    item: BenchmarkItem
    options: Mapping[str, str] | None
    answer: str

    @property
    def scored(self) -> Item:
        """For the fixed scorer and its totals."""
        return Item(self.answer, self.options, self.item.closed)


@dataclasses.dataclass(frozen=True)
class Strict:
    """What upstream's scorer makes of a reply.

    Attributes:
      right: False as well where upstream ends with an error or would draw an answer at random.
      parsed: what was read, where the scorer says so.
      fault: upstream's error, "random" where it would draw, else "".
    """

    right: bool
    parsed: str | None = None
    fault: str = ""


Words = Callable[[BenchmarkItem], tuple[str, Mapping[str, str] | None, str]]
"""A question -> the text of the message, the options shown in it, the answer (see :class:`Case`)."""


@dataclasses.dataclass(frozen=True)
class SetRule:
    """One benchmark within a protocol.

    Attributes:
      name: on the command line.
      benchmark: key of ``data.benchmarks.BENCHMARKS``.
      splits: in the order in which they are asked.
      subset: which questions, in words.
      keep: the same as a rule.
      count: how many there must be.
      words: see :data:`Words`.
      strict: names of upstream's scorers.
      grade: the same, applied. May raise :class:`UpstreamFails`.
      about: ``count`` is known only roughly; it may be off by a fiftieth.
      images: the most that are shown of a question, from the first on; None for all.
      note: what a reader of the number must know besides.
    """

    name: str
    benchmark: str
    splits: tuple[str, ...]
    subset: str
    keep: Callable[[BenchmarkItem], bool]
    count: int
    words: Words
    strict: tuple[str, ...]
    grade: Callable[[Case, str], Strict]
    about: bool = False
    images: int | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """The benchmark's name for people."""
        return BENCHMARKS[self.benchmark].title

    @property
    def wanted(self) -> str:
        """The count in words."""
        return f"{'about ' if self.about else ''}{self.count}"

    def case(self, item: BenchmarkItem) -> Case:
        """A question as it is asked."""
        text, options, answer = self.words(item)
        return Case(Ask(self.name, item.id, text, item.images[: self.images]), item, options, answer)

    def graded(self, case: Case, reply: str) -> Strict:
        """Upstream's verdict; its errors are verdicts too."""
        try:
            return self.grade(case, reply)
        except UpstreamFails as error:
            return Strict(False, fault=str(error))


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a number came about.

    Attributes:
      name: on the command line.
      about: one sentence.
      source: repository and commit whose facts these are.
      sets: by name.
      temperature, top_p, max_new_tokens, seed: of sampling, upstream's.
      tools: whether upstream offers any.
      runs: how many runs upstream averages.
      notes: where this differs from upstream, and its traps that are kept.
    """

    name: str
    about: str
    source: str
    sets: Mapping[str, SetRule]
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    tools: bool = False
    runs: int = 1
    notes: tuple[str, ...] = ()

    def line(self) -> str:
        """The one line that stands beside every number."""
        return (
            f"protocol {self.name}: {self.about}; prompts and scorers after {self.source}; temperature "
            f"{self.temperature:g}, top_p {self.top_p:g}, at most {self.max_new_tokens} new tokens"
        )

    def rule(self, name: str) -> SetRule:
        """The set of that name.

        Raises:
          KeyError: it has none; the message lists what it has.
        """
        try:
            return self.sets[name.replace("-", "_").lower()]
        except KeyError:
            raise KeyError(f"protocol {self.name} has no set {name!r}; it has {', '.join(self.sets)}") from None


class Selection(Sequence[Case]):
    """The questions of a set; one is read and worded when it is asked for.

    Args:
      rule: of a protocol.
      folder: of prepared benchmarks; None for the default one.
      miniature: what was prepared with ``--subset``. Its count is not compared with the protocol's.

    Attributes:
      ids: of the questions, in order.

    Raises:
      BadFile: not prepared, not as many as there must be, or two of one id.
    """

    def __init__(self, rule: SetRule, folder: Path | None = None, miniature: bool = False) -> None:
        self.rule, self.miniature = rule, miniature
        splits = _splits(rule, folder, miniature)
        self._parts = [(split, Questions(rule.benchmark, split, folder, miniature)) for split in splits]
        at = [
            (part, row, item.id)
            for part, (_, questions) in enumerate(self._parts)
            for row, item in enumerate(map(questions.__getitem__, range(len(questions))))
            if rule.keep(item)
        ]
        self._at = [(part, row) for part, row, _ in at]
        self.ids = tuple(name for _, _, name in at)
        if not miniature and abs(len(at) - rule.count) > (rule.count // 50 if rule.about else 0):
            raise BadFile(
                f"{rule.title}: {len(at)} questions are {rule.subset}, not {rule.wanted}; prepare it again, or pass "
                "--subset if this is a miniature on purpose"
            )
        twice = [name for name, times in collections.Counter(self.ids).items() if times > 1]
        if twice:
            raise BadFile(f"{rule.title}: two questions have the id {twice[0]!r}; answers could not be told apart")

    @property
    def size(self) -> str:
        """How many there are and should be, "272 of 272"."""
        return f"{len(self)} of {self.rule.wanted}"

    @property
    def split(self) -> str:
        """Names of the splits, joined."""
        return "+".join(name for name, _ in self._parts)

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, index: int) -> Case:
        part, row = self._at[index]
        return self.rule.case(self._parts[part][1][row])


def _splits(rule: SetRule, folder: Path | None, miniature: bool) -> list[str]:
    """All splits of a rule; of a miniature those that are there, one at least."""
    if not miniature or len(rule.splits) == 1:
        return list(rule.splits)
    there, first = [], None
    for split in rule.splits:
        try:
            Questions(rule.benchmark, split, folder, miniature, check=False)
            there.append(split)
        except BadFile as error:
            first = first or error
    if not there and first is not None:
        raise first
    return there


def fixed(case: Case, reply: str) -> Score:
    """The default scorer on a case."""
    return score(reply, case.scored)
