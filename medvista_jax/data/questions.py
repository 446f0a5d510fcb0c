"""Question pools: atlas items as host arrays, and batches of them in the types that cross the ``jit`` border."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from medvista_jax.core.types import AnswerKey, ImageBank, Question
from medvista_jax.text.chat import Chat
from medvista_jax.text.normalise import normalise
from medvista_jax.tools.base import Tool

ANSWER_BYTES = 32
"""Bytes kept of a normalised answer key."""


class QuestionPool:
    """Items rendered once: pixels, prompt tokens with and without tools, answer keys.

    Attributes:
      items: the atlas items, for teachers, controls and reports (host only).
      needs: numpy string array ``[N]``.
    """

    def __init__(
        self,
        items: Sequence,
        families: Sequence[str],
        chat: Chat,
        tools: Sequence[Tool],
        tokens_per_image: int,
        prompt_slots: int,
        turns: int,
    ) -> None:
        """Raises ValueError when a prompt takes more than ``prompt_slots`` tokens or an answer too many bytes."""
        self.items = list(items)
        self.prompt_slots = prompt_slots
        self.turns = turns
        self.needs = np.array([item.needs for item in items])
        self.pixels = np.stack([item.pixels for item in items])
        self.window = np.array([item.window for item in items], np.float32)
        self.family = np.array([list(families).index(item.family) for item in items], np.int32)
        self.target = np.array([item.targets[0] if item.targets else (0, 0, 0, 0) for item in items], np.float32)
        self.answer = np.zeros((len(items), ANSWER_BYTES), np.uint8)
        for row, item in enumerate(items):
            answer = normalise(item.answer)
            if len(answer) > ANSWER_BYTES:
                raise ValueError(f"{item.id}: the answer {item.answer!r} takes more than {ANSWER_BYTES} bytes")
            self.answer[row, : len(answer)] = np.frombuffer(answer, np.uint8)
        specs = [tool.spec for tool in tools]
        self._prompts = tuple(self._render(chat, offered, tokens_per_image) for offered in ((), tuple(specs)))

    def __len__(self) -> int:
        return len(self.items)

    def _render(self, chat: Chat, specs, tokens_per_image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (len(self.items), self.prompt_slots)
        tokens = np.full(shape, chat.tokenizer.pad_id, np.int32)
        valid = np.zeros(shape, bool)
        feature = np.full(shape, -1, np.int32)
        for row, item in enumerate(self.items):
            prompt = chat.prompt(item.question, [tokens_per_image], specs)
            count = len(prompt.tokens)
            if count > self.prompt_slots:
                raise ValueError(
                    f"{item.id}: the prompt takes {count} tokens, more than prompt_slots={self.prompt_slots}; "
                    f"raise prompt_slots. Question: {item.question!r}"
                )
            tokens[row, :count] = prompt.tokens
            feature[row, :count] = prompt.feature
            valid[row, :count] = True
        return tokens, valid, feature

    def batch(
        self, rows: np.ndarray, tools: bool | np.ndarray = True, calls: int | None = None
    ) -> tuple[Question, AnswerKey]:
        """Numpy-backed batch of the given rows.

        Args:
          rows: int ``[P]``.
          tools: whether the prompt offers tools, one for all or bool ``[P]``; without them a single turn, no call.
          calls: call budget where tools are on; default one less than the turns.
        """
        rows = np.asarray(rows)
        on_P = np.broadcast_to(np.asarray(tools, bool), rows.shape)
        pick: Callable[[int], np.ndarray] = lambda part: np.where(  # noqa: E731
            on_P[:, None], self._prompts[1][part][rows], self._prompts[0][part][rows]
        )
        question = Question(
            tokens_PS=pick(0),
            valid_PS=pick(1),
            feature_PS=pick(2),
            bank=ImageBank.of(self.pixels[rows][:, None], self.window[rows][:, None]),
            max_turns_P=np.where(on_P, self.turns, 1).astype(np.int32),
            max_calls_P=np.where(on_P, self.turns - 1 if calls is None else calls, 0).astype(np.int32),
            max_images_P=np.full(len(rows), self.turns - 1, np.int32),
        )
        key = AnswerKey(answer_PN=self.answer[rows], target_P4=self.target[rows], family_P=self.family[rows])
        return question, key
