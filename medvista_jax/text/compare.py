"""Host parser and device transducer side by side on the same turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Fault, Kind, ParsedTurn
from medvista_jax.text.grammar import Grammar
from medvista_jax.text.host_parser import HostTurn, parse_turn_text
from medvista_jax.text.parse import parse_bytes

_parse = jax.jit(parse_bytes, static_argnames="answer_capacity")


def pad_turns(turns: Sequence[bytes], capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turns as uint8 [B, N], int32 [B] lengths and bool [B] overflow: a longer turn keeps its last bytes."""
    bytes_BN = np.zeros((len(turns), capacity), np.uint8)
    length_B = np.zeros(len(turns), np.int32)
    for row, turn in enumerate(turns):
        kept = turn[max(0, len(turn) - capacity) :]
        bytes_BN[row, : len(kept)] = np.frombuffer(kept, np.uint8)
        length_B[row] = len(kept)
    return bytes_BN, length_B, np.array([len(turn) > capacity for turn in turns], bool)


def as_record(turn: HostTurn, width: int) -> dict[str, Any]:
    """A host turn as plain values, argument slots zero-padded to ``width``.

    Texts are left out: the device has none. Length and checksum among the slots stand for them.
    """
    record = dataclasses.asdict(turn)
    del record["texts"]
    record["kind"], record["fault"] = turn.kind.name, turn.fault.name
    record["arguments"] = [*turn.arguments, *[0] * (width - len(turn.arguments))]
    record["answer"] = turn.answer.decode(errors="backslashreplace")
    return record


def rows_of(parsed: ParsedTurn) -> list[HostTurn]:
    """A device result as one :class:`HostTurn` a row, argument slots padded."""
    host = jax.tree.map(np.asarray, parsed)
    return [
        HostTurn(
            kind=Kind(int(host.kind_B[b])),
            fault=Fault(int(host.fault_B[b])),
            tool=int(host.tool_B[b]),
            arguments=tuple(host.arguments_BA[b].tolist()),
            well_formed=bool(host.well_formed_B[b]),
            answer=host.answer_BN[b, : host.answer_length_B[b]].tobytes(),
        )
        for b in range(len(host.kind_B))
    ]


def parse_both(
    specs: Sequence[ToolSpec],
    grammar: Grammar,
    turns: Sequence[bytes],
    capacity: int,
    answer_capacity: int = 64,
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every turn as (host record, device record); the two are equal where the parsers agree.

    Args:
      specs, grammar: the tools, and the tables compiled from them.
      turns: bytes of each turn.
      capacity: bytes that the device reads, from a turn's end; the host is held to the same.
      answer_capacity: bytes of the longest answer that is kept.
    """
    device = rows_of(_parse(grammar, *pad_turns(turns, capacity), answer_capacity=answer_capacity))
    host = [parse_turn_text(specs, turn, capacity, answer_capacity) for turn in turns]
    return [(as_record(h, grammar.width), as_record(d, grammar.width)) for h, d in zip(host, device, strict=True)]
