"""Records as training batches: :class:`core.types.Trajectory` with the loss on what the policy said, and pixels.

A record whose ids belong to the policy's vocabulary is never encoded again (promise 1): its turns are the ids that were
sampled, and where the prompt's and the observations' ids are known and an image takes as many embeddings, so are they.
Anything else is written in the words of the policy's chat: its prompt, its tools, its frame around observations.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array, Fault, ImageBank, Kind, Trajectory, Turns, View, Views
from medvista_jax.data.files import BadFile, choose_canvas, lay_on_canvas
from medvista_jax.data.trajectories.played import fingerprint
from medvista_jax.data.trajectories.record import ImageRef, Observation, Record, Runs
from medvista_jax.environment import gym
from medvista_jax.environment.gym import Environment
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.text.chat import Chat
from medvista_jax.text.host_parser import parse_turn_text
from medvista_jax.text.tokenizer import encode_between
from medvista_jax.tools.base import EFFECT_VALUES
from medvista_jax.tools.registry import ALL_TOOLS


class Encoded(NamedTuple):
    """A record as ids, all of the same length; ``turn`` is -1 where the policy does not speak.

    ``exact``: nothing was encoded anew.
    """

    tokens: np.ndarray
    feature: np.ndarray
    turn: np.ndarray
    logprobs: np.ndarray
    allowed: np.ndarray
    exact: bool


class ForeignTool:
    """A tool of somebody else in a prompt: its schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = dict(schema)
        self.name = str(schema.get("function", schema).get("name", ""))

    def schema(self) -> dict[str, Any]:
        return self._schema


class TrajectoryPool:
    """Records encoded once for one policy; images are read when a batch asks for them.

    Attributes:
      records: those that fit.
      exact: bool ``[N]``, whose every id is the one that was recorded.
    """

    def __init__(
        self,
        records: Sequence[Record],
        model: VisionLanguageModel,
        environment: Environment,
        chat: Chat,
        slots: int,
        originals: int = 1,
        channels: int = 1,
        canvas: tuple[int, int] | None = None,
        problems: list[str] | None = None,
    ) -> None:
        """
        Args:
          environment: of the policy: its tools, view size, L, and the capacities of turns and answers.
          chat: the policy's; its tokenizer is the environment's.
          slots: S of every batch, that of a rollout's :func:`total_slots` or less.
          originals: O, images of a question at most.
          channels: of the pixels, 1 or 3; that of the images the policy is trained on otherwise.
          canvas: rows and columns that images are laid on before they are resized; by default the smallest bucket that
            holds them, a compilation each.
          problems: records that do not fit are left out and described here; without it the first one raises.

        Raises:
          ValueError: no record, or one that does not fit: which, and what to raise.
        """
        self.model, self.environment, self.chat = model, environment, chat
        self.slots, self.originals, self.channels, self.canvas = slots, originals, channels, canvas
        self._vocabulary = fingerprint(chat.tokenizer)
        self.records: list[Record] = []
        self._encoded: list[Encoded] = []
        for record in records:
            try:
                encoded = self._encode(record)
            except ValueError as error:
                if problems is None:
                    raise
                problems.append(str(error))
                continue
            self.records.append(record)
            self._encoded.append(encoded)
        if not self.records:
            raise ValueError("no trajectory to train on" + (f"; the first problem: {problems[0]}" if problems else ""))
        self.exact = np.array([encoded.exact for encoded in self._encoded])

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, rows: np.ndarray) -> tuple[Trajectory, np.ndarray]:
        """The records of these rows, packed to the left.

        Returns:
          The trajectory, numpy-backed but for positions, and uint8 pixels ``[B, I, h, w, C]``. ``features_BILE`` is
          None. The views are blank recipes: their pixels come from the file.

        Raises:
          BadFile: an image that cannot be read.
        """
        rows = np.asarray(rows)
        batch, pad = len(rows), self.environment.pad_id
        fill = lambda value, kind: np.full((batch, self.slots), value, kind)  # noqa: E731
        tokens, valid, feature, turn = fill(pad, np.int32), fill(False, bool), fill(-1, np.int32), fill(-1, np.int32)
        logprobs, allowed = fill(0, np.float32), fill(-1, np.int32)
        for place, row in enumerate(rows):
            one = self._encoded[row]
            here = slice(len(one.tokens))
            tokens[place, here], feature[place, here], turn[place, here] = one.tokens, one.feature, one.turn
            logprobs[place, here], allowed[place, here], valid[place, here] = one.logprobs, one.allowed, True
        positions_BSZ, _ = self.model.positions(jnp.zeros(batch, jnp.int32), jnp.asarray(valid), jnp.asarray(feature))
        records = [self.records[row] for row in rows]
        trajectory = Trajectory(
            tokens_BS=tokens,
            valid_BS=valid,
            sampled_BS=turn >= 0,
            feature_BS=feature,
            positions_BSZ=positions_BSZ,
            turn_BS=turn,
            logprobs_BS=logprobs,
            allowed_BS=allowed,
            features_BILE=None,
            views=self._views(records),
            **self._outcomes(records, turn),
        )
        return trajectory, self._pixels(records)

    def _encode(self, record: Record) -> Encoded:
        environment, tokenizer = self.environment, self.chat.tokenizer
        self._check(record)
        width = environment.tokens_per_image
        same = record.source.tokenizer == self._vocabulary
        whole = same and record.source.tokens_per_image == width
        ids: list[int] = []
        feature: list[int] = []
        turn: list[int] = []
        logprobs: list[float] = []
        allowed: list[int] = []
        exact = True

        def add(more: Sequence[int], stands_for: Sequence[int], number: int = -1, record_turn: Any = None) -> None:
            ids.extend(more)
            feature.extend(stands_for)
            turn.extend([number] * len(more))
            logprobs.extend(record_turn.logprobs if record_turn and record_turn.logprobs else [0.0] * len(more))
            allowed.extend(record_turn.allowed if record_turn and record_turn.allowed else [-1] * len(more))

        if whole and record.prompt is not None:
            add(record.prompt.ids, _unroll(record.prompt.feature, len(record.prompt.ids)))
        else:
            exact = False
            tools = [ALL_TOOLS[tool].spec if isinstance(tool, str) else ForeignTool(tool) for tool in record.tools]
            prompt = self.chat.prompt(record.question, [width] * len(record.images), tools)
            add(prompt.tokens, prompt.feature)
        image = len(record.images)
        for number, said in enumerate(record.turns):
            if same and said.ids is not None:
                add(said.ids, [-1] * len(said.ids), number, said)
            else:
                exact = False
                new = tokenizer.encode(said.text)
                add(new, [-1] * len(new), number)
            seen = said.observation
            if seen is None:
                continue
            if whole and seen.ids is not None:
                add(seen.ids, _unroll(seen.feature, len(seen.ids)))
            else:
                exact = False
                add(*self._observe(seen, image))
            image += seen.image is not None
        if len(ids) > self.slots:
            raise ValueError(f"{record.id}: takes {len(ids)} tokens, more than slots={self.slots}; raise slots")
        return Encoded(
            np.array(ids, np.int32),
            np.array(feature, np.int32),
            np.array(turn, np.int32),
            np.array(logprobs, np.float32),
            np.array(allowed, np.int32),
            exact,
        )

    def _check(self, record: Record) -> None:
        turns, slots = self.environment.turns, self.environment.image_slots(self.originals)
        unknown = [tool for tool in record.tools if isinstance(tool, str) and tool not in ALL_TOOLS]
        wrong = ""
        if not record.turns:
            wrong = "is a question without a turn; sample trajectories of it first"
        elif len(record.turns) > turns:
            wrong = f"has {len(record.turns)} turns, more than the environment's {turns}; raise turns"
        elif len(record.images) > self.originals:
            wrong = f"has {len(record.images)} images, more than originals={self.originals}; raise originals"
        elif len(record.shown()) > slots:
            wrong = f"shows {len(record.shown())} images, more than the {slots} image slots; raise originals or turns"
        elif unknown:
            wrong = f"offers {unknown[0]!r}, which is no tool of this package and has no schema"
        for turn in record.turns:
            for name, values in (("logprobs", turn.logprobs), ("allowed", turn.allowed)):
                if values is not None and (turn.ids is None or len(values) != len(turn.ids)):
                    wrong = wrong or f"{name} of a turn are not one for each of its ids"
        if wrong:
            raise ValueError(f"{record.id}: {wrong}")

    def _observe(self, seen: Observation, image: int) -> tuple[list[int], list[int]]:
        """An observation in the frame of the chat; text of a tool acts as no tag."""
        frame, tokenizer, width = self.chat.frame, self.chat.tokenizer, self.environment.tokens_per_image
        if seen.image is None:
            ids = encode_between(tokenizer, frame.before, seen.text, frame.after)
            return ids, [-1] * len(ids)
        left = tokenizer.encode(frame.before + frame.image_before)
        right = encode_between(tokenizer, frame.image_after, seen.text, frame.after)
        shown = [tokenizer.special[frame.image_symbol]] * width
        stands_for = range(image * width, (image + 1) * width)
        return [*left, *shown, *right], [-1] * len(left) + list(stands_for) + [-1] * len(right)

    def _views(self, records: Sequence[Record]) -> Views:
        slots = self.environment.image_slots(self.originals)
        lead = (len(records), slots)
        depth = max(1, self.environment.turns - 1)
        view = View(
            source=np.zeros((*lead, 2), np.int32),
            affine=np.zeros((*lead, 2, 2, 3), np.float32),
            window=np.zeros((*lead, 2, 2), np.float32),
            blend=np.zeros(lead, np.int32),
            seam=np.zeros((*lead, 3), np.float32),
            effect=np.zeros((*lead, depth), np.int32),
            values=np.zeros((*lead, depth, EFFECT_VALUES), np.float32),
        )
        return Views(view, np.array([len(record.shown()) for record in records], np.int32))

    def _outcomes(self, records: Sequence[Record], turn_BS: np.ndarray) -> dict[str, Any]:
        """What the turns turned out to be, by the host's parser and the recorded faults."""
        environment = self.environment
        specs = [tool.spec for tool in environment.tools]
        batch, capacity, width = len(records), environment.turns, environment.grammar.width
        blank = lambda value, *more: np.full((batch, capacity, *more), value, np.int32)  # noqa: E731
        kind, fault, tool, length = blank(0), blank(0), blank(-1), blank(0)
        arguments, well_formed = blank(0, width), np.zeros((batch, capacity), bool)
        answer = np.zeros((batch, environment.answer_bytes), np.uint8)
        answer_length, truncated = np.zeros(batch, np.int32), np.ones(batch, bool)
        for row, record in enumerate(records):
            for number, said in enumerate(record.turns):
                raw = said.text.encode(errors="surrogatepass")
                parsed = parse_turn_text(specs, raw, environment.turn_bytes, environment.answer_bytes)
                kind[row, number], tool[row, number] = parsed.kind, parsed.tool
                fault[row, number] = Fault[said.fault] if said.fault else parsed.fault
                arguments[row, number, : len(parsed.arguments)] = parsed.arguments
                well_formed[row, number] = parsed.well_formed
                length[row, number] = (turn_BS[row] == number).sum()
                if parsed.kind == Kind.ANSWER:
                    answer[row, : len(parsed.answer)] = np.frombuffer(parsed.answer, np.uint8)
                    answer_length[row], truncated[row] = len(parsed.answer), False
        return {
            "turns": Turns(kind, fault, tool, arguments, well_formed, length),
            "turns_B": np.array([len(record.turns) for record in records], np.int32),
            "calls_B": (kind == Kind.CALL).sum(axis=1, dtype=np.int32),
            "answer_BN": answer,
            "answer_length_B": answer_length,
            "truncated_B": truncated,
        }

    def _pixels(self, records: Sequence[Record]) -> np.ndarray:
        """uint8 ``[B, I, h, w, C]``: returned images of the view's size as they are, all others rendered by the gym."""
        height, width = self.environment.view_size
        slots = self.environment.image_slots(self.originals)
        out = np.zeros((len(records), slots, height, width, self.channels), np.uint8)
        for row, record in enumerate(records):
            waiting: dict[int, Any] = {}
            for slot, ref in enumerate(record.shown()):
                image = self._load(record, ref)
                pixels_YXC = image.pixels_YXC
                shown = slot >= len(record.images) and pixels_YXC.dtype == np.uint8
                if shown and pixels_YXC.shape[:2] == (height, width):
                    out[row, slot] = pixels_YXC  # grey is copied to every channel
                else:
                    waiting[slot] = image
            if waiting:
                out[row, list(waiting)] = self._render(list(waiting.values()))
        return out

    def _load(self, record: Record, ref: ImageRef) -> Any:
        try:
            image = ref.load()
        except BadFile as error:
            raise BadFile(f"{record.id}: {error}") from None
        if image.pixels_YXC.shape[2] > self.channels:
            raise BadFile(f"{record.id}: {image.name} is in colour; say channels=3")
        return image

    def _render(self, images: Sequence[Any]) -> np.ndarray:
        """Images as the gym shows a question's own."""
        slots = self.environment.image_slots(self.originals)
        canvas = choose_canvas(images) if self.canvas is None else self.canvas
        laid = lay_on_canvas(images, canvas, slots=slots, channels=self.channels, dtype=np.uint16)
        bank = ImageBank.of(
            laid.pixels_OYXC[None],
            laid.window_O2[None],
            np.array([laid.count], np.int32),
            np.maximum(laid.size_O2, 1)[None],
            laid.spacing_O2[None],
            laid.rescale_O2[None],
        )
        return np.asarray(_shown(self.environment, bank))[0, : len(images)]


@functools.partial(jax.jit)
def _shown(environment: Environment, bank: ImageBank) -> Array:
    return gym.render_originals(environment, bank)


def _unroll(runs: Runs, length: int) -> list[int]:
    feature = [-1] * length
    for at, first, count in runs:
        feature[at : at + count] = range(first, first + count)
    return feature
