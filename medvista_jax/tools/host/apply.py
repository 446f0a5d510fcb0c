"""Host tools by hand: calls as JSON has them, checked against the spec, then run as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medvista_jax.core.tool_spec import Argument, ToolSpec, python_values
from medvista_jax.core.types import Fault
from medvista_jax.tools.call import ToolCall, ToolResult
from medvista_jax.tools.define import IMAGE_INDEX
from medvista_jax.tools.host.batch import run_batch
from medvista_jax.tools.host.call import HostCall, HostTool
from medvista_jax.tools.host.images import displayed


def apply_host_calls(tools: Mapping[str, HostTool], calls: Sequence[ToolCall], workers: int = 8) -> list[ToolResult]:
    """A result for each call, in order; what cannot be carried out is a fault, nothing raises.

    Args:
      tools: by name.
      calls: of any of them.
      workers: see :func:`~medvista_jax.tools.host.batch.run_batch`.
    """
    results: list[ToolResult | None] = []
    asked: list[HostCall] = []
    for call in calls:
        prepared = _prepare(tools, call)
        if isinstance(prepared, Fault):
            results.append(ToolResult(prepared))
        else:
            results.append(None)
            asked.append(prepared)
    replies = iter(run_batch(tools, asked, workers))
    return [result or ToolResult((reply := next(replies)).fault, reply.text) for result in results]


def _prepare(tools: Mapping[str, HostTool], call: ToolCall) -> HostCall | Fault:
    if call.name not in tools:
        return Fault.UNKNOWN_TOOL
    fault, arguments = check_arguments(tools[call.name].spec, call.arguments)
    if fault != Fault.NONE:
        return fault
    image: np.ndarray | None = None
    if IMAGE_INDEX.name in arguments:
        if arguments[IMAGE_INDEX.name] >= len(call.images):
            return Fault.NO_SUCH_IMAGE
        image = displayed(call.images[arguments[IMAGE_INDEX.name]], call.window)
    return HostCall(call.name, image, arguments)


def check_arguments(spec: ToolSpec, arguments: Mapping[str, Any]) -> tuple[Fault, dict[str, Any]]:
    """The arguments with defaults filled in, or the first fault in the order of the gym's parsers.

    That order is: unknown, missing, of wrong type, out of range, an empty box. Escapes are undone before JSON comes
    here, so that a string's bytes are those of its text.
    """
    known = {argument.name: argument for argument in spec.arguments}
    if not arguments.keys() <= known.keys():
        return Fault.UNKNOWN_ARGUMENT, {}
    if any(argument.default is None and name not in arguments for name, argument in known.items()):
        return Fault.MISSING_ARGUMENT, {}
    given = [(known[name], value) for name, value in arguments.items()]
    if not all(_has_type(argument, value) for argument, value in given):
        return Fault.WRONG_TYPE, {}
    if not all(_in_range(argument, value) for argument, value in given):
        return Fault.OUT_OF_RANGE, {}
    boxes = [value for argument, value in given if argument.kind == "box"]
    if any(x2 <= x1 or y2 <= y1 for x1, y1, x2, y2 in boxes):
        return Fault.EMPTY_BOX, {}
    slots = [slot for argument in spec.arguments for slot in argument.default_slots]
    defaults = python_values(spec, slots, [""] * sum(argument.kind == "string" for argument in spec.arguments))
    return Fault.NONE, {name: arguments.get(name, defaults[name]) for name in known}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _has_type(argument: Argument, value: Any) -> bool:
    if argument.kind in ("point", "box"):
        return isinstance(value, list) and len(value) == argument.width and all(map(_is_integer, value))
    if argument.kind == "integer":
        return _is_integer(value)
    return isinstance(value, bool if argument.kind == "boolean" else str)


def _in_range(argument: Argument, value: Any) -> bool:
    if argument.kind == "enum":
        return value in argument.choices
    if argument.kind == "boolean":
        return True
    if argument.kind == "string":
        value = len(value.encode(errors="replace"))
    return all(
        argument.minimum <= number <= argument.maximum for number in (value if isinstance(value, list) else [value])
    )
