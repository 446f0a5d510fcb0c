"""Rows of verl: questions with a rule for their answers, and no trajectory.

    {"data_source": "…", "prompt": [{"role": "system", …}, {"role": "user", "content": "<image>…"}],
     "images": [{"bytes": …, "path": …}], "ability": "math", "reward_model": {"style": "rule", "ground_truth": "42"},
     "extra_info": {"split": "train", "index": 3, "question": "…", "answer": "…", "need_tools_kwargs": true,
                    "tools_kwargs": {"image_zoom_in_tool": {"create_kwargs": {…}}}}}

They become records without turns, to sample trajectories of. Of ``tools_kwargs`` the names are taken and nothing else:
their arguments often hold the true answer, which no prompt may show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from medvista_jax.data.trajectories.foreign import Reading, Rejected, parse_json, text_of, tools_of, without_marks
from medvista_jax.data.trajectories.messages import conversation
from medvista_jax.data.trajectories.record import Record, Source
from medvista_jax.text.dialects import IMAGE


def read_row(row: Any, name: str, reading: Reading, source: Source) -> Record:
    """A row as a record without turns.

    Raises:
      Rejected: what is wrong with it.
    """
    if not isinstance(row, Mapping):
        raise Rejected("is no JSON object")
    entries = parse_json(row.get("prompt"), "prompts") if not _plain(row.get("prompt")) else row["prompt"]
    entries = [{"role": "user", "content": entries}] if isinstance(entries, str) else entries
    if not isinstance(entries, list) or not entries:
        raise Rejected("no prompt")
    extra = parse_json(row.get("extra_info"), "extra_info") or {}
    extra = extra if isinstance(extra, Mapping) else {}
    answer = _truth(row, extra)
    uniform = conversation(row, entries, name, reading, ("role", "content"))
    roles = [message.role for message in uniform.messages]
    if "assistant" in roles or "tool" in roles:
        raise Rejected("a prompt that holds turns already")
    question = "\n".join(message.text for message in uniform.messages if message.role == "user")
    marks = question.count(IMAGE)
    if marks and marks != len(uniform.images):
        raise Rejected(f"{'more' if marks > len(uniform.images) else 'fewer'} {IMAGE} marks than images")
    kwargs = extra.get("tools_kwargs")
    named = [tool for tool, given in kwargs.items() if given is not None] if isinstance(kwargs, Mapping) else []
    index = extra.get("index")
    return Record(
        id=uniform.id if uniform.id != name or index is None else f"{row.get('data_source') or 'verl'}/{index}",
        question=without_marks(question, uniform.images, uniform.notes),
        images=tuple(uniform.images),
        source=dataclasses.replace(source, dialect="verl"),
        answer=answer,
        family=text_of(row, ("data_source",)) or reading.family,
        split=text_of(extra, ("split",)) or reading.split,
        tools=tools_of(named, "verl") if reading.offered is None else reading.offered,
        system="\n".join(message.text for message in uniform.messages if message.role == "system"),
        notes=tuple(uniform.notes),
    )


def _plain(prompt: Any) -> bool:
    """Whether a prompt is words, and not JSON as text."""
    return isinstance(prompt, str) and not prompt.lstrip().startswith("[")


def _truth(row: Mapping[str, Any], extra: Mapping[str, Any]) -> str:
    rule = parse_json(row.get("reward_model"), "reward_model")
    given = rule.get("ground_truth") if isinstance(rule, Mapping) else None
    if isinstance(given, Mapping):  # several forms of the answer, as some data sets have them
        given = given.get("target", given.get("answer"))
    if isinstance(given, list) and given:
        given = given[0]
    answer = text_of({"truth": given, "answer": extra.get("answer")}, ("truth", "answer"))
    if answer is None:
        raise Rejected("no ground_truth")
    return answer
