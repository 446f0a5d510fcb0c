"""``ground``: where a model behind HTTP sees what the policy asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument, ToolSpec
from medvista_jax.tools.define import IMAGE_INDEX
from medvista_jax.tools.host.call import HostCall, HostTool, ToolFailed
from medvista_jax.tools.host.endpoint import Connection, Endpoint

MOST_BOXES = 20
"""Boxes of a reply that are shown."""

NOTHING = "nothing found"

_PROMPT = (
    "Find every instance of the following in the image: {query}. Reply with JSON and nothing else: a list of "
    '{{"bbox_2d": [x1, y1, x2, y2], "label": "…"}} with integers from 0 to 1000 relative to the width and the height '
    "of the image; [] if there is none."
)


def make_ground(
    endpoint: str | Endpoint,
    description: str = "Find the boxes of what is described.",
    name: str = "ground",
    retries: int = 2,
    backoff_s: float = 0.5,
) -> HostTool:
    """A tool that sends the image and a description to a detector and replies with boxes, 0…1000 of the image.

    The ``"json"`` protocol is sent ``{"image": …, "arguments": {"query": …}}`` and wants ``{"boxes": [[x1, y1, x2,
    y2], …], "labels": […]}``, labels optional, or ``{"text": str}``. The ``"chat"`` protocol asks for Qwen's list of
    ``{"bbox_2d": …, "label": …}``.

    Args:
      endpoint: an address stands for ``Endpoint(address)``.
      description: for the prompt.
      name: of the tool, for more than one detector.
      retries, backoff_s: see ``HostTool``.

    Raises:
      ValueError: for an address that is none.
    """
    endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
    connection = Connection(endpoint)

    def run(calls: Sequence[HostCall]) -> list[str]:
        return [_find(connection, call) for call in calls]

    # The request keeps its own time; the tool's is there for what that cannot bound, such as a name's look-up.
    return HostTool(
        spec=ToolSpec(
            name, description, (Argument("query", "what to find", "string", 1, 200), IMAGE_INDEX), "recognise"
        ),
        run=run,
        timeout_s=2 * endpoint.timeout_s,
        retries=retries,
        backoff_s=backoff_s,
    )


def _find(connection: Connection, call: HostCall) -> str:
    query = call.arguments["query"]
    reply = connection.ask(call.image, {"query": query}, _PROMPT.format(query=query))
    return read_boxes(_json_in(reply) if isinstance(reply, str) else reply)


def _json_in(text: str) -> Any:
    """The first JSON list or object in a text, such as one inside a code fence."""
    starts = [at for at in (text.find("["), text.find("{")) if at >= 0]
    try:
        return json.JSONDecoder().raw_decode(text, min(starts))[0]
    except (ValueError, RecursionError):
        raise ToolFailed(f"ground replied without JSON: {text[:200]!r}") from None


def read_boxes(reply: Any) -> str:
    """``2 found: nodule [10, 20, 30, 40]; nodule [50, 60, 70, 80]`` of a reply of either protocol.

    Raises:
      ToolFailed: for a reply of another shape, or a box that leaves the frame 0…1000 or has no area.
    """
    if isinstance(reply, dict) and isinstance(reply.get("text"), str):
        return reply["text"]
    pairs = _pairs(reply)
    if not pairs:
        return NOTHING
    shown = [f"{label} {_box(box)}".strip() for box, label in pairs]
    return f"{len(shown)} found: " + "; ".join(shown[:MOST_BOXES])


def _pairs(reply: Any) -> list[tuple[Any, str]]:
    if isinstance(reply, list) and all(isinstance(item, dict) and "bbox_2d" in item for item in reply):
        boxes, labels = [item["bbox_2d"] for item in reply], [item.get("label") or "" for item in reply]
    elif isinstance(reply, dict) and isinstance(reply.get("boxes"), list):
        boxes = reply["boxes"]
        labels = reply.get("labels") or [""] * len(boxes)
    else:
        raise ToolFailed(f'ground wants {{"boxes": …, "labels": …}} or a list of bbox_2d, not {str(reply)[:200]}')
    if not isinstance(labels, list) or len(labels) != len(boxes) or not all(isinstance(word, str) for word in labels):
        raise ToolFailed(f"ground replied with labels that do not match its {len(boxes)} boxes: {str(labels)[:200]}")
    return list(zip(boxes, labels, strict=True))


def _box(box: Any) -> list[int]:
    numbers = box if isinstance(box, list) and len(box) == 4 else []
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n <= FRAME for n in numbers):
        numbers = []
    whole = [round(number) for number in numbers]
    if not whole or whole[2] <= whole[0] or whole[3] <= whole[1]:
        raise ToolFailed(f"ground replied with the box {str(box)[:100]}, not x1 < x2, y1 < y2 in 0…{FRAME}")
    return whole
