"""Question pools: items as host arrays, and batches of them in the types that cross the ``jit`` border."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from medvista_jax.core.types import AnswerKey, ImageBank, Question
from medvista_jax.data.files.canvas import choose_canvas, lay_on_canvas
from medvista_jax.text.chat import Chat
from medvista_jax.text.normalise import normalise
from medvista_jax.tools.base import Tool
from medvista_jax.tools.host.call import HostTool

ANSWER_BYTES = 32
"""Bytes kept of a normalised answer key, unless the pool is told otherwise."""


class AtlasImages:
    """One image an item, all of one size and in memory: the packaged atlas.

    Attributes:
      pixels: ``[N, Y, X, C]``.
      window: float32 ``[N, 2]``.
    """

    def __init__(self, items: Sequence) -> None:
        self.pixels = np.stack([item.pixels for item in items])
        self.window = np.array([item.window for item in items], np.float32)
        self.count = np.ones(len(items), np.int32)

    def bank(self, rows: np.ndarray) -> ImageBank:
        return ImageBank.of(self.pixels[rows][:, None], self.window[rows][:, None])


class FileImages:
    """Any number of images of any size an item, laid on one canvas when a batch asks for them.

    Canvas, channels, slots and dtype are those that hold every item's images, so that one program serves all.
    """

    def __init__(self, items: Sequence, canvas: tuple[int, int] | None = None) -> None:
        self.items = list(items)
        sizes, self.channels, self.dtype, counts = [], 1, np.dtype(np.uint8), []
        for item in items:  # one at a time: a data set may be larger than memory
            images = item.images
            sizes.append(choose_canvas(images))
            counts.append(len(images))
            for image in images:
                self.channels = max(self.channels, image.pixels_YXC.shape[2])
                self.dtype = np.promote_types(self.dtype, image.pixels_YXC.dtype)
        self.canvas = max(sizes) if canvas is None else canvas
        self.count = np.array(counts, np.int32)

    def bank(self, rows: np.ndarray) -> ImageBank:
        slots = int(self.count.max())
        laid = [
            lay_on_canvas(self.items[row].images, self.canvas, slots=slots, channels=self.channels, dtype=self.dtype)
            for row in rows
        ]
        stack = lambda name: np.stack([getattr(one, name) for one in laid])  # noqa: E731
        return ImageBank.of(
            stack("pixels_OYXC"),
            stack("window_O2"),
            self.count[rows],
            np.maximum(stack("size_O2"), 1),  # a slot without an image is a black pixel, not a division by zero
            stack("spacing_O2"),
            stack("rescale_O2"),
        )


class QuestionPool:
    """Items rendered once: images, prompt tokens with and without tools, answer keys.

    Attributes:
      items: of the atlas or of :func:`medvista_jax.data.files.read_questions`, for teachers, controls and reports
        (host only).
      images: where their pixels come from.
      needs: numpy string array ``[N]``.
    """

    def __init__(
        self,
        items: Sequence,
        families: Sequence[str],
        chat: Chat,
        tools: Sequence[Tool | HostTool],
        tokens_per_image: int,
        prompt_slots: int,
        turns: int,
        canvas: tuple[int, int] | None = None,
        answer_bytes: int = ANSWER_BYTES,
    ) -> None:
        """Args:
          canvas: rows and columns that images of files are laid on; by default the smallest bucket that holds them.

        Raises:
          ValueError: a prompt takes more than ``prompt_slots`` tokens or an answer too many bytes.
        """
        if not len(items):
            raise ValueError("a pool of no questions")
        self.items = list(items)
        self.prompt_slots = prompt_slots
        self.turns = turns
        self.needs = np.array([item.needs for item in items])
        of_files = hasattr(self.items[0], "images")
        self.images = FileImages(self.items, canvas) if of_files else AtlasImages(self.items)
        self.family = np.array([list(families).index(item.family) for item in items], np.int32)
        self.target = np.array([item.targets[0] if item.targets else (0, 0, 0, 0) for item in items], np.float32)
        self.answer = np.zeros((len(items), answer_bytes), np.uint8)
        for row, item in enumerate(items):
            answer = normalise(item.answer)
            if len(answer) > answer_bytes:
                raise ValueError(
                    f"{item.id}: the answer {item.answer!r} takes more than {answer_bytes} bytes; raise answer_bytes"
                )
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
            images = [tokens_per_image] * int(self.images.count[row])
            prompt = chat.prompt(item.question, images, specs)
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
            bank=self.images.bank(rows),
            max_turns_P=np.where(on_P, self.turns, 1).astype(np.int32),
            max_calls_P=np.where(on_P, self.turns - 1 if calls is None else calls, 0).astype(np.int32),
            max_images_P=np.full(len(rows), self.turns - 1, np.int32),
        )
        key = AnswerKey(answer_PN=self.answer[rows], target_P4=self.target[rows], family_P=self.family[rows])
        return question, key
