"""``messages`` with roles and contents, as Qwen's and LLaMA-Factory's data sets and OpenAI's chats have them.

    {"messages": [{"role": "system", "content": "…"},
                  {"role": "user", "content": "<image>Where is it?"},
                  {"role": "assistant", "content": "<think>…</think>", "tool_calls": [{"id": "1", "type": "function",
                   "function": {"name": "zoom_in", "arguments": "{\\"bbox_2d\\": [0, 0, 500, 500]}"}}]},
                  {"role": "tool", "tool_call_id": "1", "content": "<image>"},
                  {"role": "assistant", "content": "<think>…</think><answer>left</answer>"}],
     "images": ["a.png", "b.png"], "tools": "[…]", "answer": "left"}

``images`` stand in the order of the ``<image>`` marks of all messages. A content may also be a list of parts: text, and
images that are named there, or, where a part only says ``{"type": "image"}``, the next of ``images``. A call may
stand in ``tool_calls`` (arguments as text or as an object), in ``function_call``, in messages of the roles
``function_call`` and ``tool_call``, or in tags of the content. What tools return has the role "tool", "observation" or
"function", or is a message of the user after a call. Columns may hold JSON as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvista_jax.data.trajectories.foreign import (
    Conversation,
    Message,
    Reading,
    Rejected,
    parse_json,
    read_images,
    text_of,
    to_record,
    tools_of,
)
from medvista_jax.data.trajectories.record import ImageRef, Record, Source
from medvista_jax.text.dialects import IMAGE

ROLES: Mapping[str, str] = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "tool_response", "function", "function_response"), "tool"),
}
"""What roles are called elsewhere. OpenAI's ``function`` is a result, LLaMA-Factory's ``function_call`` a call."""

_CALLS = ("function_call", "tool_call")
ANSWERS = ("answer", "solution", "ground_truth", "label")


def read_row(row: Any, name: str, reading: Reading, source: Source) -> Record:
    """A row as a record.

    Args:
      name: of a row that has no id.

    Raises:
      Rejected: what is wrong with it.
    """
    if not isinstance(row, Mapping):
        raise Rejected("is no JSON object")
    entries = parse_json(row.get("messages"), "messages")
    if not isinstance(entries, list) or not entries:
        raise Rejected("no messages")
    return to_record(conversation(row, entries, name, reading, ("role", "content")), reading, source)


def conversation(
    row: Mapping[str, Any], entries: list, name: str, reading: Reading, keys: tuple[str, str]
) -> Conversation:
    """The row made uniform.

    Args:
      entries: its messages.
      keys: under which a message has its role and its content.
    """
    waiting = read_images(row.get("images", row.get("image")), reading.folder)
    images: list[ImageRef] = []
    messages = [_message(entry, keys, reading.folder, waiting, images) for entry in entries]
    system = text_of(row, ("system",))
    if system and messages[0].role != "system":
        messages.insert(0, Message("system", system))
    return Conversation(
        id=text_of(row, ("id", "uid", "question_id")) or name,
        messages=messages,
        images=images + waiting,
        answer=text_of(row, ANSWERS),
        options=_options(row),
        family=text_of(row, ("data_source", "dataset", "source")) or "",
        split=text_of(row, ("split",)) or "",
        tools=tools_of(row.get("tools"), reading.dialect),
    )


def _options(row: Mapping[str, Any]) -> tuple[str, ...]:
    options = row.get("options")
    values = options.values() if isinstance(options, Mapping) else options if isinstance(options, list) else ()
    return tuple(str(value) for value in values)


def _message(
    entry: Any, keys: tuple[str, str], folder: Path, waiting: list[ImageRef], images: list[ImageRef]
) -> Message:
    """One message; images are moved from ``waiting`` to ``images`` as their marks come."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get(keys[0]), str):
        raise Rejected("a message without a role")
    given = entry[keys[0]].strip().lower()
    if given not in ROLES:
        raise Rejected(f"an unknown role {given[:40]!r}")
    content = entry.get(keys[1])
    if isinstance(content, list):
        text = "".join(_part(part, folder, waiting, images) for part in content)
    elif isinstance(content, str):
        text = content
        for _ in range(text.count(IMAGE)):
            if waiting:
                images.append(waiting.pop(0))
    elif content is None or given in _CALLS:
        text = ""
    else:
        raise Rejected(f"a content of type {type(content).__name__}")
    if given in _CALLS:
        return Message("assistant", calls=_calls(parse_json(content, "function calls")))
    calls = parse_json(entry.get("tool_calls"), "tool_calls") or entry.get("function_call") or []
    reasoning = entry.get("reasoning_content")
    if isinstance(reasoning, str) and reasoning.strip() and "<think>" not in text:
        text = f"<think>{reasoning.strip()}</think>{text}"
    return Message(ROLES[given], text, _calls(calls))


def _calls(cell: Any) -> list[Any]:
    """Calls as ``tool_calls`` has them."""
    entries = cell if isinstance(cell, list) else [cell] if cell else []
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise Rejected("a call that is no object")
    return [dict(entry) if "function" in entry else {"function": dict(entry)} for entry in entries]


def _part(part: Any, folder: Path, waiting: list[ImageRef], images: list[ImageRef]) -> str:
    """A part of a content as text, its image moved to ``images``."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise Rejected(f"a part of a content of type {type(part).__name__}")
    kind = part.get("type")
    if kind == "text" or (kind is None and "text" in part):
        return str(part.get("text") or "")
    if kind in ("image", "image_url", "input_image") or "image" in part:
        named = part.get("image_url") or part.get("image") or part.get("path") or part.get("url")
        if named:
            images += read_images(named, folder)
        elif waiting:
            images.append(waiting.pop(0))
        return IMAGE
    raise Rejected(f"a part of a content of the kind {str(kind)[:40]!r}")
