"""An episode as the messages of a chat, in two ways.

``NativeConversation`` offers tools by their schemas and reads ``tool_calls``; replies of tools are messages of the role
"tool", and the returned image follows in a message of the user, since most servers take images only there.
``TextConversation`` offers and reads them in the text of a dialect.

Both are lists of messages that grow: :meth:`read` takes the assistant's message and gives the turn for the gym,
:meth:`tell` takes what came of it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.environment.episodes import Opening, Reply
from medvista_jax.text.dialects import DIALECTS, IMAGE, Context, Dialect, Picture, canonical, openai

BARE_INSTRUCTION = (
    "Answer the question about the image. Think inside <think></think>. Then give the final answer inside "
    "<answer></answer>."
)
"""System message where no tool is offered."""

FINAL_REQUEST = "Answer now, inside <answer></answer>."
"""What the user says before the last turn."""

Message = dict[str, Any]


def names() -> list[str]:
    """What ``--dialect`` may be: "native" is the tool calls of the protocol, "text" our own words."""
    return ["native", "text", *(name for name in DIALECTS if name not in ("openai", "medvista"))]


def converse(dialect: str, opening: Opening, specs: Sequence[ToolSpec]) -> Conversation:
    """The conversation that begins an episode.

    Args:
      dialect: one of :func:`names`.
      specs: of the tools on offer, perhaps none.
    """
    if dialect == "native":
        return NativeConversation(opening, specs)
    return TextConversation(DIALECTS["medvista" if dialect == "text" else dialect], opening, specs)


class Conversation(Protocol):
    """Messages of one episode.

    Attributes:
      messages: so far, images as data URLs.
      images: uint8 ``[h, w, C]``, by their index in the episode.
    """

    messages: list[Message]
    images: list[np.ndarray]

    def request(self) -> dict[str, Any]:
        """Keys of the next request beside ``messages``."""
        ...

    def read(self, message: Mapping[str, Any]) -> str:
        """Takes the assistant's message; the turn in our words. Nothing raises, whatever the message holds."""
        ...

    def tell(self, reply: Reply) -> None:
        """Takes what came of the turn, while the episode goes on."""
        ...


def png(image_hwC: np.ndarray) -> bytes:
    """A PNG file of uint8 ``[h, w, 1]`` or ``[h, w, 3]``."""
    file = io.BytesIO()
    Image.fromarray(image_hwC[..., 0] if image_hwC.shape[2] == 1 else image_hwC).save(file, "PNG")
    return file.getvalue()


def data_url(image_hwC: np.ndarray) -> str:
    """The image within an address."""
    return "data:image/png;base64," + base64.b64encode(png(image_hwC)).decode()


def _image_part(image_hwC: np.ndarray) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(image_hwC)}}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _first_messages(system: str, opening: Opening) -> list[Message]:
    """Images in their order, by number where there are several, then the question."""
    parts = []
    for index, image in enumerate(opening.images):
        if len(opening.images) > 1:
            parts.append(_text_part(f"image {index}:"))
        parts.append(_image_part(image))
    parts.append(_text_part(opening.text))
    return [{"role": "system", "content": system}, {"role": "user", "content": parts}]


def _context(images: Sequence[np.ndarray], specs: Sequence[ToolSpec], originals: int) -> Context:
    """Sizes are those of the images as shown: they are all that the model has seen."""
    return Context(tuple(Picture(image.shape[1], image.shape[0]) for image in images), tuple(specs), originals)


class NativeConversation:
    """With ``tools`` and ``tool_calls``. Of several calls in a message the last is carried out; the others are told."""

    def __init__(self, opening: Opening, specs: Sequence[ToolSpec]) -> None:
        system = openai.OpenAI().system_prompt(specs) if specs else BARE_INSTRUCTION
        self.messages = _first_messages(system, opening)
        self.images = list(opening.images)
        self._specs, self._originals, self._final = tuple(specs), len(opening.images), opening.final
        self._ids: set[str] = set()
        self._reading = openai.MessageReading("")

    def request(self) -> dict[str, Any]:
        # The last request still lists the tools: servers refuse a choice without them, and past calls as well.
        if not self._specs:
            return {}
        return {"tools": openai.tools(self._specs), "tool_choice": "none" if self._final else "auto"}

    def read(self, message: Mapping[str, Any]) -> str:
        message = self._with_own_ids(message)
        self._reading = openai.read_message(message, _context(self.images, self._specs, self._originals))
        self.messages.append(_echo(message))
        return self._reading.turn

    def _with_own_ids(self, message: Mapping[str, Any]) -> Message:
        """Every call with an id that no other call of the conversation has; some servers give none, or always one."""
        calls, older = message.get("tool_calls"), message.get("function_call")
        if not calls and older:
            calls = [{"function": older}]
        own = []
        for call in calls if isinstance(calls, list) else [calls] if calls else []:
            entry = dict(call) if isinstance(call, dict) else {"function": call}
            given = entry.get("id")
            if not isinstance(given, str) or not given or given in self._ids:
                entry["id"] = f"call_{len(self._ids)}_{len(self.messages)}"
            self._ids.add(entry["id"])
            own.append(entry)
        bare = {key: value for key, value in message.items() if key not in ("tool_calls", "function_call")}
        return {**bare, "tool_calls": own} if own else bare

    def tell(self, reply: Reply) -> None:
        self._final = reply.final
        url = None
        if reply.image is not None:
            self.images.append(reply.image)
            url = data_url(reply.image)
        told = openai.replies(self._reading, reply.text, url)
        if reply.final:
            if told[-1]["role"] != "user":
                told.append({"role": "user", "content": []})
            told[-1]["content"].append(_text_part(FINAL_REQUEST))
        self.messages += told


def _echo(message: Mapping[str, Any]) -> Message:
    """The assistant's message as it goes back: the protocol's keys, and arguments that are JSON objects.

    Servers parse the arguments of past calls and refuse the request where they cannot; broken ones are shown to the
    model as ``{"broken": "…"}``.
    """
    content = message.get("content")
    said: Message = {"role": "assistant", "content": content if isinstance(content, str | list) else None}
    calls = []
    for call in message.get("tool_calls", ()):
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments = function.get("name"), function.get("arguments")
        calls.append(
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": name if isinstance(name, str) else "unknown", "arguments": _as_object(arguments)},
            }
        )
    if calls:
        return {**said, "tool_calls": calls}
    return said if said["content"] else {**said, "content": ""}


def _as_object(arguments: Any) -> str:
    if arguments is None or arguments == "":
        return "{}"
    try:
        given = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        given = None
    if isinstance(given, dict):
        return arguments if isinstance(arguments, str) else json.dumps(given)
    return json.dumps({"broken": str(arguments)[:4096]})


class TextConversation:
    """In the words of a dialect: turns are the message's content, results are messages of the user."""

    def __init__(self, dialect: Dialect, opening: Opening, specs: Sequence[ToolSpec]) -> None:
        self.messages = _first_messages(dialect.system_prompt(specs) if specs else BARE_INSTRUCTION, opening)
        self.images = list(opening.images)
        self._dialect, self._specs, self._originals = dialect, tuple(specs), len(opening.images)

    def _seen(self) -> Context:
        return _context(self.images, self._specs, self._originals)

    def request(self) -> dict[str, Any]:
        return {}

    def read(self, message: Mapping[str, Any]) -> str:
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        content = content if isinstance(content, str) else ""
        self.messages.append({"role": "assistant", "content": content})
        return self._dialect.read_turn(content, self._seen()).turn

    def tell(self, reply: Reply) -> None:
        observation = canonical.observed(reply.text, reply.image is not None, self._seen())
        text = self._dialect.write_observation(observation, self._seen())
        parts = [_text_part(text)]
        if reply.image is not None:
            self.images.append(reply.image)
            before, _, after = text.partition(IMAGE)
            parts = [_image_part(reply.image)]
            parts = ([_text_part(before)] if before else []) + parts + ([_text_part(after)] if after else [])
        self.messages.append({"role": "user", "content": parts})
