"""ShareGPT's ``conversations``, as LLaMA-Factory documents them.

    {"conversations": [{"from": "human", "value": "<image>Where is it?"},
                       {"from": "function_call", "value": "{\\"name\\": \\"zoom_in\\", \\"arguments\\": {…}}"},
                       {"from": "observation", "value": "<image>"},
                       {"from": "gpt", "value": "<think>…</think><answer>left</answer>"}],
     "images": ["a.png", "b.png"], "system": "…", "tools": "[…]"}

A ``gpt`` message before a ``function_call`` is the thought of the same turn. Everything else is as in
:mod:`~medvista_jax.data.trajectories.messages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvista_jax.data.trajectories.foreign import Reading, Rejected, parse_json, to_record
from medvista_jax.data.trajectories.messages import conversation
from medvista_jax.data.trajectories.record import Record, Source


def read_row(row: Any, name: str, reading: Reading, source: Source) -> Record:
    """A row as a record.

    Raises:
      Rejected: what is wrong with it.
    """
    if not isinstance(row, Mapping):
        raise Rejected("is no JSON object")
    entries = parse_json(row.get("conversations"), "conversations")
    if not isinstance(entries, list) or not entries:
        raise Rejected("no conversations")
    return to_record(conversation(row, entries, name, reading, ("from", "value")), reading, source)
