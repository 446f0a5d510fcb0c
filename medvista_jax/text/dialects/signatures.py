"""How the dialects with ``<tools>`` blocks offer tools: Qwen's block around the dialect's own signatures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.text.chat import tool_block
from medvista_jax.text.dialects.canonical import ZOOM


@dataclasses.dataclass(frozen=True)
class _Signature:
    """A function's schema where :func:`~medvista_jax.text.chat.tool_block` asks a spec for it."""

    function: Mapping[str, Any]

    def schema(self) -> dict[str, Any]:
        return {"type": "function", "function": dict(self.function)}


def signature(name: str, description: str, properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    """A function's description as ``tools`` lists have it, without the wrapper."""
    parameters = {"type": "object", "properties": dict(properties), "required": list(required)}
    return {"name": name, "description": description, "parameters": parameters}


def box_property(description: str, kind: str = "number") -> dict[str, Any]:
    """JSON schema of a box."""
    return {"type": "array", "items": {"type": kind}, "minItems": 4, "maxItems": 4, "description": description}


def offer(tools: Sequence[ToolSpec], zoom: Mapping[str, Any]) -> str:
    """The block with ``zoom`` in the place of our zoom, every other tool as it is; empty without tools."""
    signatures = [_Signature(zoom) if tool.name == ZOOM else tool for tool in tools]
    return tool_block(signatures) if signatures else ""
