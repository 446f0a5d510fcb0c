"""Recorded turns through the gym: observations come anew from our own tools, or from a host's recorded replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medvista_jax.core.types import Fault
from medvista_jax.data.trajectories.played import fingerprint
from medvista_jax.data.trajectories.record import HostWord, Record
from medvista_jax.text.tokenizer import Tokenizer
from medvista_jax.tools.host.call import HostCall, HostReply, HostTool


def encode_turns(
    records: Sequence[Record], tokenizer: Tokenizer, turns: int, turn_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids ``[B, R, T]`` int32 and lengths ``[B, R]`` of records' turns, as ``rollout.loop.Script`` takes them.

    Ids of the tokenizer's own vocabulary are taken as they were sampled; other turns are encoded.

    Raises:
      ValueError: a record with too many turns, or a turn with too many ids.
    """
    mine = fingerprint(tokenizer)
    tokens = np.full((len(records), turns, turn_tokens), tokenizer.pad_id, np.int32)
    lengths = np.zeros((len(records), turns), np.int32)
    for row, record in enumerate(records):
        if len(record.turns) > turns:
            raise ValueError(f"{record.id}: has {len(record.turns)} turns, more than {turns}; raise turns")
        for number, turn in enumerate(record.turns):
            known = turn.ids is not None and record.source.tokenizer == mine
            ids = turn.ids if known else tokenizer.encode(turn.text)
            if len(ids) > turn_tokens:
                raise ValueError(
                    f"{record.id}: turn {number} takes {len(ids)} tokens, more than turn_tokens={turn_tokens}"
                )
            tokens[row, number, : len(ids)], lengths[row, number] = ids, len(ids)
    return tokens, lengths


class RecordedReplies:
    """Hands back what host tools replied, in the place of ``run`` of ``rollout_with_host``.

    The rows of the batch must be those of the records, in their order, with their turns scripted.

    Raises:
      ValueError: when another tool is asked than the record has a reply of, or more often.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        most = max((len(record.turns) for record in records), default=0)
        self._left: list[tuple[str, HostWord]] = []
        for number in range(most):
            for record in records:
                if number < len(record.turns) and (word := record.turns[number].host) is not None:
                    self._left.append((f"{record.id}, turn {number}", word))

    def __call__(self, tools: Mapping[str, HostTool], calls: Sequence[HostCall]) -> list[HostReply]:
        replies = []
        for call in calls:
            where, word = self._left.pop(0) if self._left else ("the records", None)
            if word is None or word.tool != call.tool:
                kept = "none" if word is None else f"one of {word.tool}"
                raise ValueError(f"{call.tool} is asked for a reply, but {where} hold {kept}")
            replies.append(HostReply(word.text, Fault[word.fault]))
        return replies
