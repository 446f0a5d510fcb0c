"""``@host_tool``: an ordinary function on a Pillow image becomes a tool."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from PIL import Image

from medvista_jax.core.tool_spec import Argument, ToolSpec
from medvista_jax.core.types import Fault
from medvista_jax.tools.define import IMAGE_INDEX
from medvista_jax.tools.host.call import TEXT_BYTES, HostCall, HostTool, ToolFailed


def host_tool(
    description: str,
    *arguments: Argument,
    family: str = "recognise",
    timeout_s: float = 30.0,
    retries: int = 0,
    backoff_s: float = 0.5,
    text_bytes: int = TEXT_BYTES,
) -> Callable[[Callable[..., str]], HostTool]:
    """Turns a function into a :class:`~medvista_jax.tools.host.call.HostTool` of the function's name.

    ::

        @host_tool("Name the colour at a point.", Argument("x", "column, 0 to 1000"), Argument("y", "row, 0 to 1000"))
        def colour_at(image, x, y):
            return str(image.getpixel((x * (image.width - 1) // 1000, y * (image.height - 1) // 1000)))

    The function gets ``image`` (RGB, as displayed) and the arguments by name, and returns a text. Where it has no
    parameter ``image`` the tool looks at none; where it has, the argument ``image_index`` is added to the spec, and the
    function need not take it. It is called from several threads at once.

    Args:
      description: one sentence for the prompt.
      arguments: in call order.
      family: see ``ToolSpec``.
      timeout_s, retries, backoff_s, text_bytes: see ``HostTool``.

    Raises:
      TypeError: when the function's parameters and the arguments do not match.
    """

    def declare(function: Callable[..., str]) -> HostTool:
        looks = _check_parameters(function, arguments)
        named = any(argument.name == IMAGE_INDEX.name for argument in arguments)
        spec = ToolSpec(
            name=function.__name__,
            description=description,
            arguments=arguments + ((IMAGE_INDEX,) if looks and not named else ()),
            family=family,
        )
        passed = [argument.name for argument in arguments]

        def run(calls: Sequence[HostCall]) -> list[str]:
            return [_call(function, call, looks, passed) for call in calls]

        return HostTool(spec, run, timeout_s, retries, backoff_s, batched=False, text_bytes=text_bytes)

    return declare


def _call(function: Callable[..., str], call: HostCall, looks: bool, passed: Sequence[str]) -> str:
    values = {name: call.arguments[name] for name in passed if name in call.arguments}
    if not looks:
        return function(**values)
    if call.image is None:
        raise ToolFailed("the call came without an image", Fault.NO_SUCH_IMAGE)
    return function(image=Image.fromarray(call.image), **values)


def _check_parameters(function: Callable[..., str], arguments: Sequence[Argument]) -> bool:
    """Whether the function looks at an image."""
    parameters = dict(inspect.signature(function).parameters)
    where = f"host tool {function.__name__}"
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    by_name = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    looks = by_name.pop("image", None) is not None
    names = [argument.name for argument in arguments]
    if "image" in names:
        raise TypeError(f"{where}: 'image' is the image's own parameter; give the argument another name")
    for name in names:
        if name not in by_name and not open_ended:
            raise TypeError(f"{where}: the function has no parameter for the argument {name!r}")
    for name, parameter in by_name.items():
        if name not in names and parameter.default is parameter.empty:
            raise TypeError(f"{where}: no Argument describes the parameter {name!r}")
    return looks
