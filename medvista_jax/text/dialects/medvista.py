"""Our own dialect, as an adapter like the others: a turn is read and written as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.text import chat
from medvista_jax.text.dialects import canonical
from medvista_jax.text.dialects.base import IMAGE, Context, Reading, TextObservation


@dataclasses.dataclass(frozen=True)
class MedVista:
    """The words of :mod:`medvista_jax.text.chat`."""

    name: str = "medvista"

    def system_prompt(self, tools: Sequence[ToolSpec]) -> str:
        return chat.system_text(tools, "qwen")

    def read_turn(self, text: str, context: Context) -> Reading:
        return Reading(canonical.without_end(text).encode("utf-8", "replace").decode())

    def write_turn(self, turn: str, context: Context) -> str:
        return turn

    def write_observation(self, observation: TextObservation, context: Context) -> str:
        image = "" if observation.image is None else IMAGE
        return f"<tool_response>{image}{canonical.words(observation)}</tool_response>"

    def read_observation(self, text: str, context: Context) -> TextObservation:
        text = text.strip().removeprefix("<tool_response>").removesuffix("</tool_response>").strip()
        return canonical.observed(text.replace(IMAGE, ""), IMAGE in text, context)
