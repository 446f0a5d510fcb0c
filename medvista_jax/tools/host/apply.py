"""Host tools by hand: calls as JSON has them, checked against the spec, then run as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medvista_jax.core.tool_spec import Argument, ToolSpec
from medvista_jax.core.types import Fault
from medvista_jax.tools.call import ToolCall, ToolResult
from medvista_jax.tools.host.batch import run_batch
from medvista_jax.tools.host.call import HostCall, HostTool
from medvista_jax.tools.host.declare import IMAGE_INDEX
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

    That order is: unknown, missing, of wrong type, out of range, an empty box. The argument's own JSON schema says what
    type and range are, but a string's length counts its UTF-8 bytes.
    """
    known = {argument.name: argument for argument in spec.arguments}
    if not arguments.keys() <= known.keys():
        return Fault.UNKNOWN_ARGUMENT, {}
    if any(argument.default is None and name not in arguments for name, argument in known.items()):
        return Fault.MISSING_ARGUMENT, {}
    given = [(known[name].schema(), value) for name, value in arguments.items()]
    if not all(_has_type(schema, value) for schema, value in given):
        return Fault.WRONG_TYPE, {}
    if not all(_in_range(schema, value) for schema, value in given):
        return Fault.OUT_OF_RANGE, {}
    boxes = [value for name, value in arguments.items() if known[name].kind == "box"]
    if any(x2 <= x1 or y2 <= y1 for x1, y1, x2, y2 in boxes):
        return Fault.EMPTY_BOX, {}
    return Fault.NONE, {name: arguments.get(name, _default(argument)) for name, argument in known.items()}


def _has_type(schema: Mapping[str, Any], value: Any) -> bool:
    if schema["type"] == "array":
        items = isinstance(value, list) and len(value) == schema["minItems"]
        return items and all(_has_type(schema["items"], item) for item in value)
    if schema["type"] == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, {"string": str, "boolean": bool}[schema["type"]])


def _in_range(schema: Mapping[str, Any], value: Any) -> bool:
    if schema["type"] == "array":
        return all(_in_range(schema["items"], item) for item in value)
    if schema["type"] == "integer":
        return schema["minimum"] <= value <= schema["maximum"]
    if "enum" in schema:
        return value in schema["enum"]
    if schema["type"] == "string":
        return schema["minLength"] <= len(value.encode(errors="replace")) <= schema["maxLength"]
    return True


def _default(argument: Argument) -> Any:
    """The default as a Python value: the spec has an enum's index, and integers for a box."""
    if argument.kind == "enum":
        return argument.choices[argument.default]
    if argument.schema()["type"] == "boolean":
        return bool(argument.default)
    return list(argument.default) if isinstance(argument.default, tuple) else argument.default
