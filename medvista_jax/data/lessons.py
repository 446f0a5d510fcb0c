"""Captions and questions about atlas items as token arrays, in the words of a hub model's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medvista_jax.data.captions import CAPTION_PROMPT, Facts, caption, questions
from medvista_jax.text.chat import PromptTokens
from medvista_jax.text.hub_chat import HubChat

SYSTEM = ""
"""An empty system message: the template's own would cost a third more text."""


class LessonTokens(NamedTuple):
    """B lessons, T slots, C slots of the longest answer.

    Attributes:
      tokens_BT, feature_BT, valid_BT, slot_BC: as in :class:`medvista_jax.learning.align.LessonBatch`.
    """

    tokens_BT: np.ndarray
    feature_BT: np.ndarray
    valid_BT: np.ndarray
    slot_BC: np.ndarray


class Lessons:
    """What can be asked about each of some images, encoded.

    Attributes:
      slots, answer_slots: T and C, which hold every lesson.
    """

    def __init__(
        self, facts: Sequence[Facts], chat: HubChat, tokens_per_image: int, end: str, caption_share: float
    ) -> None:
        """
        Args:
          end: symbol that closes an answer.
          caption_share: how often the lesson is the caption; else one of the item's questions, each as often.
        """
        self.caption_share = caption_share
        self._chat, self._tokens_per_image, self._end = chat, tokens_per_image, end
        self._prompts: dict[str, PromptTokens] = {}
        self._answers: dict[str, list[int]] = {}
        self._texts = [((CAPTION_PROMPT, caption(known)), *questions(known)) for known in facts]
        pairs = {pair for lessons in self._texts for pair in lessons}
        self.slots = max(len(self.prompt(question).tokens) + len(self.answer(answer)) for question, answer in pairs)
        self.answer_slots = max(len(self.answer(answer)) for _, answer in pairs)

    def prompt(self, question: str) -> PromptTokens:
        """The prompt of a question about one image."""
        if question not in self._prompts:
            self._prompts[question] = self._chat.prompt(question, [self._tokens_per_image], system=SYSTEM)
        return self._prompts[question]

    def answer(self, text: str) -> list[int]:
        """Ids of an answer with the symbol that ends it."""
        if text not in self._answers:
            self._answers[text] = self._chat.tokenizer.encode(text + self._end)
        return self._answers[text]

    def batch(self, rows: np.ndarray, rng: np.random.Generator) -> LessonTokens:
        """A lesson about each of the images ``rows``."""
        shape = (len(rows), self.slots)
        tokens = np.full(shape, self._chat.tokenizer.pad_id, np.int32)
        feature, valid = np.full(shape, -1, np.int32), np.zeros(shape, bool)
        slot = np.full((len(rows), self.answer_slots), -1, np.int32)
        for place, row in enumerate(rows):
            lessons = self._texts[row]
            pick = 0 if rng.random() < self.caption_share else int(rng.integers(1, len(lessons)))
            question, text = lessons[pick]
            prompt, answer = self.prompt(question), self.answer(text)
            begin, size = len(prompt.tokens), len(prompt.tokens) + len(answer)
            tokens[place, :size] = [*prompt.tokens, *answer]
            feature[place, :begin] = prompt.feature
            valid[place, :size] = True
            slot[place, : len(answer)] = np.arange(begin, size)
        return LessonTokens(tokens, feature, valid, slot)
