"""Our own episodes as records: exact ids, what they stand for, and the images as the policy saw them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from medvista_jax.core.types import Array, Fault, Kind, Question, Trajectory
from medvista_jax.data.trajectories.files import encode_pixels
from medvista_jax.data.trajectories.record import (
    HostWord,
    ImageRef,
    Observation,
    Outcome,
    Prompt,
    Record,
    Runs,
    Source,
    Turn,
)
from medvista_jax.environment import gym
from medvista_jax.environment.gym import Environment
from medvista_jax.environment.host_calls import Run
from medvista_jax.environment.items import pictures_of
from medvista_jax.text.chat import Chat, Frame
from medvista_jax.text.normalise import normalise
from medvista_jax.text.tokenizer import Tokenizer
from medvista_jax.tools.host.batch import run_batch
from medvista_jax.tools.host.call import HostReply
from medvista_jax.tools.registry import ALL_TOOLS

_BEFORE_THE_HOST = frozenset(
    {
        *(Fault.MALFORMED, Fault.UNKNOWN_TOOL, Fault.UNKNOWN_ARGUMENT, Fault.MISSING_ARGUMENT, Fault.WRONG_TYPE),
        *(Fault.NO_SUCH_IMAGE, Fault.NO_CALLS_LEFT),
    }
)
"""Faults with which no host tool is asked and that none replies with."""


@functools.lru_cache(maxsize=4)
def fingerprint(tokenizer: Tokenizer) -> str:
    """Of what each id of a vocabulary stands for. Rows that only fill up the embedding do not count."""
    table, lengths = tokenizer.token_bytes()
    used = int(np.max(np.flatnonzero(lengths), initial=-1)) + 1
    digest = hashlib.sha256(np.asarray(lengths[:used], np.int32).tobytes())
    digest.update(np.ascontiguousarray(table[:used]).tobytes())
    for text, index in sorted(tokenizer.special.items()):
        digest.update(f"\n{text}\t{index}".encode())
    return digest.hexdigest()[:16]


def runs_of(feature: np.ndarray) -> Runs:
    """``feature`` of consecutive ids as runs ``(at, first, count)``."""
    at = np.flatnonzero(feature >= 0)
    if not len(at):
        return ()
    breaks = np.flatnonzero((np.diff(at) != 1) | (np.diff(feature[at]) != 1)) + 1
    return tuple((int(part[0]), int(feature[part[0]]), len(part)) for part in np.split(at, breaks))


@functools.partial(jax.jit, static_argnames=("slot",))
def _render(environment: Environment, question: Question, trajectory: Trajectory, slot: int) -> Array:
    slot_B = jax.numpy.where(trajectory.views.count_B > slot, slot, -1)
    return gym.render_views(environment, question.bank, trajectory.views, slot_B)


def rendered(environment: Environment, question: Question, trajectory: Trajectory) -> np.ndarray:
    """The pixels of every image slot as the policy saw them: uint8 ``[B, I, h, w, C]``, 0 in unused slots."""
    slots = trajectory.views.view.blend.shape[1]
    bare = trajectory.replace(features_BILE=None)
    return np.stack([np.asarray(_render(environment, question, bare, slot)) for slot in range(slots)], axis=1)


class Asked(NamedTuple):
    """One batch of a host's replies: the tools' names, and what they said."""

    tools: tuple[str, ...]
    replies: tuple[HostReply, ...]


class HostLog:
    """Notes what host tools reply: hand :meth:`run` to ``rollout_with_host``, then the log to :func:`records_of`."""

    def __init__(self, run: Run = run_batch) -> None:
        self._run = run
        self.batches: list[Asked] = []

    def run(self, tools, calls) -> Sequence[HostReply]:
        replies = tuple(self._run(tools, calls))
        self.batches.append(Asked(tuple(call.tool for call in calls), replies))
        return replies

    def by_turn(self, environment: Environment, trajectory: Trajectory) -> dict[tuple[int, int], HostReply]:
        """(row, turn) to reply. A batch is asked in the order of rows, one a turn in which any row asks.

        Raises:
          ValueError: the log is of another rollout.
        """
        turns, left, found = trajectory.turns, list(self.batches), {}
        hosts = set(environment.host_tools)
        for turn in range(turns.kind_BR.shape[1]):
            asked = [
                row
                for row in range(turns.kind_BR.shape[0])
                if int(turns.tool_BR[row, turn]) in hosts
                and turns.kind_BR[row, turn] == Kind.CALL
                and Fault(int(turns.fault_BR[row, turn])) not in _BEFORE_THE_HOST
            ]
            waiting = list(zip(left[0].tools, left[0].replies, strict=True)) if left else []
            matched = {}
            for row in asked:
                name = environment.tools[int(turns.tool_BR[row, turn])].name
                if waiting and waiting[0][0] == name and waiting[0][1].fault == turns.fault_BR[row, turn]:
                    matched[row, turn] = waiting.pop(0)[1]
            if matched and waiting:
                break
            found |= matched
            left = left[1:] if matched else left
        if left:
            raise ValueError("the log of host replies does not belong to this trajectory")
        return found


def tool_entries(tools: Sequence[Any]) -> tuple[Any, ...]:
    """Tools as records name them."""
    return tuple(tool.name if ALL_TOOLS.get(tool.name) is tool else tool.spec.schema() for tool in tools)


def records_of(
    environment: Environment,
    chat: Chat,
    items: Sequence[Any],
    question: Question,
    trajectory: Trajectory,
    source: Source,
    *,
    offered: bool | np.ndarray = True,
    split: str = "",
    reward: Any = None,
    host: HostLog | None = None,
) -> Iterator[Record]:
    """A record of every row.

    Args:
      chat: whose prompts the questions hold and whose frame the environment's observations have.
      items: of the questions, P; row ``b`` belongs to item ``b // (B // P)``.
      source: without tokenizer, L and row, which are filled in.
      offered: whether a prompt offers the environment's tools: one for all, or bool ``[P]``.
      reward: ``RewardTerms`` of the batch, to be kept with the outcome.
      host: what host tools replied.

    Raises:
      ValueError: a chat of another frame, or a log of another rollout.
    """
    pixels_BIhwC = rendered(environment, question, trajectory)
    t = jax.tree.map(np.asarray, trajectory.replace(features_BILE=None))
    reward = None if reward is None else jax.tree.map(np.asarray, reward)
    replies = {} if host is None else host.by_turn(environment, t)
    group = len(t.tokens_BS) // len(items)
    offered_P = np.broadcast_to(np.asarray(offered, bool), (len(items),))
    tools = tool_entries(environment.tools)
    mine = dataclasses.replace(
        source, tokenizer=fingerprint(chat.tokenizer), tokens_per_image=environment.tokens_per_image
    )
    originals: dict[int, tuple[ImageRef, ...]] = {}
    for row in range(len(t.tokens_BS)):
        place = row // group
        item = items[place]
        if place not in originals:
            originals[place] = images_of(item)
        prompt, turns = _segments(environment, chat, t, row, pixels_BIhwC[row], replies)
        yield Record(
            id=item.id,
            question=item.question,
            images=originals[place],
            source=dataclasses.replace(mine, row=row),
            answer=item.answer,
            options=tuple(item.options),
            family=item.family,
            needs=getattr(item, "needs", ""),
            targets=tuple(tuple(map(float, box)) for box in getattr(item, "targets", ())),
            split=split,
            tools=tools if offered_P[place] else (),
            prompt=prompt,
            turns=turns,
            outcome=_outcome(t, row, item, reward),
        )


def images_of(item: Any) -> tuple[ImageRef, ...]:
    """The originals of a question, stored intensities and scales included."""
    refs = []
    for picture in pictures_of(item):
        rescale = tuple(map(float, picture.rescale))
        refs.append(
            ImageRef(
                data=encode_pixels(np.asarray(picture.pixels_YXC)),
                window=tuple(map(float, picture.window)),
                rescale=None if rescale == (1.0, 0.0) else rescale,
                spacing=None if picture.spacing is None else tuple(map(float, picture.spacing)),
            )
        )
    return tuple(refs)


def _outcome(t: Trajectory, row: int, item: Any, reward: Any) -> Outcome:
    answer = t.answer_BN[row, : t.answer_length_B[row]].tobytes()
    taken = slice(int(t.turns_B[row]))
    truncated = bool(t.truncated_B[row])
    return Outcome(
        answer=answer.decode(errors="replace"),
        correct=bool(normalise(answer)) and normalise(answer) == normalise(item.answer),
        well_formed=bool(t.turns.well_formed_BR[row, taken].all()) and not truncated,
        truncated=truncated,
        reward=None if reward is None else float(reward.total_B[row]),
        terms={} if reward is None else {name: float(term_B[row]) for name, term_B in reward.terms.items()},
    )


def _segments(
    environment: Environment,
    chat: Chat,
    t: Trajectory,
    row: int,
    pixels_IhwC: np.ndarray,
    replies: dict[tuple[int, int], HostReply],
) -> tuple[Prompt, tuple[Turn, ...]]:
    """The row's sequence, cut where the policy begins and ends to speak."""
    valid = np.flatnonzero(t.valid_BS[row])
    ids, feature, turn_S = t.tokens_BS[row, valid], t.feature_BS[row, valid], t.turn_BS[row, valid]
    starts = [int(np.flatnonzero(turn_S == turn)[0]) for turn in np.unique(turn_S[turn_S >= 0])]
    first = starts[0] if starts else len(ids)
    prompt = Prompt(tuple(ids[:first].tolist()), runs_of(feature[:first]))
    turns = []
    for begin, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        number = int(turn_S[begin])
        said = begin + int((turn_S[begin:end] == number).sum())
        spoken = valid[begin:said]
        allowed = t.allowed_BS[row, spoken]
        logprobs = t.logprobs_BS[row, spoken]
        turns.append(
            Turn(
                text=chat.tokenizer.decode(ids[begin:said].tolist()),
                ids=tuple(ids[begin:said].tolist()),
                logprobs=tuple(logprobs.tolist()) if logprobs.any() else None,
                allowed=tuple(allowed.tolist()) if (allowed >= 0).any() else None,
                fault=Fault(int(t.turns.fault_BR[row, number])).name,
                observation=None
                if said == end
                else _observation(environment, chat, ids[said:end], feature[said:end], pixels_IhwC),
                host=None if (row, number) not in replies else _host_word(environment, t, row, number, replies),
            )
        )
    return prompt, tuple(turns)


def _host_word(
    environment: Environment, t: Trajectory, row: int, turn: int, replies: dict[tuple[int, int], HostReply]
) -> HostWord:
    reply = replies[row, turn]
    return HostWord(environment.tools[int(t.turns.tool_BR[row, turn])].name, reply.text, Fault(reply.fault).name)


def _observation(
    environment: Environment,
    chat: Chat,
    ids: np.ndarray,
    feature: np.ndarray,
    pixels_IhwC: np.ndarray,
) -> Observation:
    shown = feature[feature >= 0]
    image = None
    if len(shown):
        image = ImageRef(data=encode_pixels(pixels_IhwC[int(shown[0]) // environment.tokens_per_image]))
    return Observation(
        text=inside_frame(chat.tokenizer.decode(ids[feature < 0].tolist()), chat.frame, image is not None),
        image=image,
        ids=tuple(ids.tolist()),
        feature=runs_of(feature),
    )


def inside_frame(text: str, frame: Frame, image: bool) -> str:
    """What an observation says, without what stands around it and around its image.

    Raises:
      ValueError: it has another frame.
    """
    before = frame.before + (frame.image_before + frame.image_after if image else "")
    if not text.startswith(before) or not text.endswith(frame.after) or len(text) < len(before) + len(frame.after):
        raise ValueError(
            f"the chat's frame {before!r} … {frame.after!r} does not stand around the observation {text!r}"
        )
    return text[len(before) : len(text) - len(frame.after)]
