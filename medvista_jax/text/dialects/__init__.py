"""The dialects of other projects' models, in both directions.

    from medvista_jax.text import dialects

    deepeyes = dialects.get("deepeyes")
    context = dialects.Context(images=(dialects.Picture(1920, 1080),), specs=(ZOOM_IN,))
    reading = deepeyes.read_turn('<tool_call>{"name": "image_zoom_in_tool", …}</tool_call>', context)
    deepeyes.write_turn(reading.turn, context)

The protocol and its promises: :class:`~medvista_jax.text.dialects.base.Dialect`. A dialect's facts, limits and the
upstream faults it does not reproduce stand at the top of its file.
"""

from __future__ import annotations

from collections.abc import Mapping

from medvista_jax.text.dialects.base import IMAGE, Context, Dialect, Picture, Reading, TextObservation
from medvista_jax.text.dialects.deepeyes import DeepEyes
from medvista_jax.text.dialects.medvista import MedVista
from medvista_jax.text.dialects.mini_o3 import MiniO3
from medvista_jax.text.dialects.openai import OpenAI
from medvista_jax.text.dialects.openthinkimg import OpenThinkIMG
from medvista_jax.text.dialects.ophiuchus import Ophiuchus
from medvista_jax.text.dialects.pixel_reasoner import PixelReasoner
from medvista_jax.text.dialects.qwen3vl import Qwen3VL

__all__ = ["DIALECTS", "IMAGE", "Context", "Dialect", "Picture", "Reading", "TextObservation", "get"]

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (DeepEyes(), MedVista(), MiniO3(), OpenAI(), OpenThinkIMG(), Ophiuchus(), PixelReasoner(), Qwen3VL())
}
"""Every dialect by name, with its default settings."""


def get(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
      ValueError: naming the dialects there are.
    """
    if name not in DIALECTS:
        raise ValueError(f"no dialect {name!r}; there are {', '.join(sorted(DIALECTS))}")
    return DIALECTS[name]
