"""The default scorer of medical VQA: what upstream's scorers mean, without their faults (``differences.py``)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

from medvista_jax.evaluation.scorers import replies


@dataclasses.dataclass(frozen=True)
class Item:
    """A question as far as scoring needs it.

    Attributes:
      answer: the benchmark's answer. Yes or no, in English or Chinese, makes the question a closed one.
      options: text by capital letter where there are options; ``answer`` is then one of the letters or texts.
      closed: for other answers, the benchmark's own label (SLAKE's CLOSED); they are matched like open ones.
    """

    answer: str
    options: Mapping[str, str] | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        if self.options is not None and not (self.options and all(map(_is_letter, self.options))):
            raise ValueError(f"options are {self.options!r}: give each its text by a capital letter")
        if self.options and self.letter is None:
            raise ValueError(f"the answer {self.answer!r} is none of the options {dict(self.options)!r}")

    @property
    def letter(self) -> str | None:
        """The right option's letter; None where there are no options or the answer is none of them."""
        options, answer = self.options or {}, self.answer.strip()
        if answer.upper() in options:
            return answer.upper()
        form = replies.normal_form(answer)
        return next((letter for letter, text in options.items() if replies.normal_form(text) == form), None)

    @property
    def kind(self) -> str:
        """``"choice"``, ``"yes/no"``, ``"closed"`` or ``"open"``."""
        if self.options:
            return "choice"
        if self.answer.strip().lower() in replies.YES | replies.NO:
            return "yes/no"
        return "closed" if self.closed else "open"


def _is_letter(text: str) -> bool:
    return len(text) == 1 and "A" <= text <= "Z"


@dataclasses.dataclass(frozen=True)
class Score:
    """What a reply is worth.

    Attributes:
      correct: right; never for an unparsable reply.
      parsed: what was read: a letter, ``"yes"``, ``"no"``, or a normal form; None when unparsable.
      unparsable: no answer could be read, or several.
      f1: of the words of both normal forms, each as often as it occurs; None but for open questions.
      recall: share of the answer's words that the reply has; None but for open questions.
    """

    correct: bool
    parsed: str | None
    unparsable: bool
    f1: float | None = None
    recall: float | None = None


def score(reply: str, item: Item) -> Score:
    """Scores one reply: options by letter or text, yes/no by whole words with negation, all else by equal normal forms,
    with F1 and recall of the words for open questions. Nothing is drawn: a reply that names no option, or two, or says
    neither yes nor no, is unparsable and wrong.

    Args:
      reply: what the model wrote.
      item: the question.

    Source: the faults of MedEvalKit, lmms-eval, VLMEvalKit and MedVLThinker that it mends are in ``differences.py``.
    """
    answer = replies.final_answer(reply)
    if item.kind == "choice":
        letter = replies.option(answer, item.options or {})
        return Score(letter is not None and letter == item.letter, letter, letter is None)
    if item.kind == "yes/no":
        said = replies.yes_no(answer)
        gold = item.answer.strip().lower() in replies.YES
        return Score(said is gold, {True: "yes", False: "no", None: None}[said], said is None)
    parsed, gold_form = replies.normal_form(answer), replies.normal_form(item.answer)
    correct = bool(parsed) and replies.same(parsed, gold_form)
    f1, recall = overlap(parsed, gold_form) if item.kind == "open" else (None, None)
    return Score(correct, parsed or None, not parsed, f1, recall)


def overlap(reply: str, gold: str) -> tuple[float, float]:
    """F1 and recall of the words of two normal forms, each counted as often as in both; 0 where one is empty."""
    replied, known = Counter(reply.split()), Counter(gold.split())
    shared = (replied & known).total()
    if not shared:
        return 0.0, 0.0
    return 2 * shared / (replied.total() + known.total()), shared / known.total()
