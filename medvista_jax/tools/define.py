"""Decorators that make a tool of one function. The function's name is the tool's; its parameters are the arguments.

What a parameter receives: an int32 scalar for an integer, an enum (index of the choice) or a boolean (0 or 1), int32
``[4]`` for a box and ``[2]`` for a point. An argument ``image_index`` is added to every tool. A kernel is for one row
and must be traceable by JAX: shapes are static, values are not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import struct

from medvista_jax.core.tool_spec import Argument, ToolSpec
from medvista_jax.core.tool_text import NUMBERS
from medvista_jax.core.types import Array, Fault, View
from medvista_jax.tools.base import Effect, Originals, Outcome, Sight, Tool, view_at

IMAGE_INDEX = Argument("image_index", "image to look at, 0 is the first", "integer", 0, 99, default=0)


@struct.dataclass
class Reading:
    """What a measurement says.

    Attributes:
      numbers: float32 scalars or vectors, together at most ``NUMBERS`` of them, in the order of the text's slots.
      text: which of the tool's texts.
      fault: int32 :class:`Fault`.
      view: the image to return, of tools that return one; default the image that was named.
      values: with which the tool's effect is stacked on it.
    """

    numbers: Sequence[Array | float] = ()
    text: Array | int = 0
    fault: Array | int = int(Fault.NONE)
    view: View | None = None
    values: Sequence[Array | float] = ()


def view_tool(description: str, *arguments: Argument, family: str = "view") -> Callable[[Callable[..., Any]], Tool]:
    """A tool that looks otherwise at an image: ``f(sight, **arguments) -> View`` or ``(View, fault)``."""

    def decorate(function: Callable[..., Any]) -> Tool:
        def read(sight: Sight, **named: Array) -> Reading:
            result = function(sight, **named)
            view, fault = result if isinstance(result, tuple) else (result, int(Fault.NONE))
            return Reading(view=view, fault=fault)

        spec = _spec(function, 1, description, arguments, family)
        return Tool(spec, _kernel(spec, read))

    return decorate


def effect_tool(
    description: str, *arguments: Argument, family: str = "intensity", colour: bool = False
) -> Callable[[Callable[..., Array]], Tool]:
    """A tool that changes the displayed levels: ``f(levels_hwC, **arguments) -> levels_hwC``, float32 0…255.

    The effect belongs to the returned view: who zooms into it sees the effect of the zoomed pixels, not enlarged pixels
    of the effect.

    Args:
      colour: whether it needs colours; an image without is UNSUITABLE_IMAGE then, though it have three channels.
    """

    def decorate(function: Callable[..., Array]) -> Tool:
        spec = _spec(function, 1, description, arguments, family)

        def read(sight: Sight, **named: Array) -> Reading:
            fault = jnp.where(_grey(sight), int(Fault.UNSUITABLE_IMAGE), int(Fault.NONE)) if colour else int(Fault.NONE)
            return Reading(fault=fault, values=[jnp.ravel(value) for value in named.values()])

        def effect(levels_hwC: Array, values_N: Array, view: View, originals: Originals) -> Array:
            # float32 holds every integer of a spec up to 2**24; beyond, the last digits of an argument are lost.
            return function(levels_hwC, **_named(arguments, jnp.round(values_N).astype(jnp.int32)))

        return Tool(spec, _kernel(spec, read), effect, reads=colour)

    return decorate


def _grey(sight: Sight) -> Array:
    """Whether no original that the view shows has a pixel whose channels differ."""
    if sight.originals.pixels_OYXC.shape[-1] < 3:
        return jnp.bool_(True)
    pixels_2YXC = sight.originals.pixels_OYXC[sight.view.source]
    size_2 = sight.originals.size_O2[sight.view.source]
    y_1Y1, x_11X = (jnp.arange(n) for n in pixels_2YXC.shape[1:3])
    y_1Y1, x_11X = y_1Y1[None, :, None], x_11X[None, None, :]
    used_2YX = (y_1Y1 < size_2[:, 0, None, None]) & (x_11X < size_2[:, 1, None, None])
    coloured_2YX = jnp.any(pixels_2YXC[..., 1:] != pixels_2YXC[..., :1], axis=-1)
    return ~jnp.any(coloured_2YX & used_2YX)


def measure_tool(
    description: str,
    *arguments: Argument,
    texts: Sequence[str],
    family: str = "measure",
    image: bool = False,
    effect: Effect | None = None,
    reads: bool = True,
    sees: bool = False,
) -> Callable[[Callable[..., Reading]], Tool]:
    """A tool that measures: ``f(sight, **arguments) -> Reading``. It says one of ``texts``, and may show an image too.

    Args:
      texts, image, reads, sees: see :class:`medvista_jax.tools.base.Tool`.
      effect: what is drawn on the returned image each time it is rendered.
    """

    def decorate(function: Callable[..., Reading]) -> Tool:
        spec = _spec(function, 1, description, arguments, family)
        return Tool(spec, _kernel(spec, function), effect, tuple(texts), image, reads, sees)

    return decorate


def _spec(
    function: Callable[..., Any], skip: int, description: str, arguments: Sequence[Argument], family: str
) -> ToolSpec:
    """The spec, after a look at whether the function takes the arguments that it declares."""
    takes = list(inspect.signature(function).parameters)[skip:]
    names = [argument.name for argument in arguments]
    if takes != names:
        raise ValueError(
            f"tool {function.__name__!r}: its arguments are declared as {names}, its parameters behind the first "
            f"{skip} are {takes}; the two must be the same, in the same order"
        )
    own = () if IMAGE_INDEX.name in names else (IMAGE_INDEX,)
    return ToolSpec(function.__name__, description, (*arguments, *own), family)


def _named(arguments: Sequence[Argument], slots_A: Array) -> dict[str, Array]:
    """Arguments by name, from slots in their order."""
    named, at = {}, 0
    for a in arguments:
        named[a.name] = slots_A[at] if a.width == 1 else slots_A[at : at + a.width]
        at += a.width
    return named


def _kernel(spec: ToolSpec, read: Callable[..., Reading]) -> Callable[[Array, Sight], Outcome]:
    def kernel(arguments_A: Array, sight: Sight) -> Outcome:
        named = _named(spec.arguments, arguments_A)
        view, missing = view_at(sight.views, named[IMAGE_INDEX.name])
        if spec.arguments[-1] is IMAGE_INDEX:  # ours, not the function's
            del named[IMAGE_INDEX.name]
        reading = read(sight.replace(view=view), **named)
        fault = jnp.where(missing == Fault.NONE, jnp.asarray(reading.fault, jnp.int32), missing)
        return Outcome(
            fault=fault,
            view=view if reading.view is None else reading.view,
            values_N=_padded(spec.name, reading.values, view.values.shape[-1]),
            text=jnp.asarray(reading.text, jnp.int32),
            numbers_N=_padded(spec.name, reading.numbers, NUMBERS),
        )

    return kernel


def _padded(name: str, parts: Sequence[Array | float], width: int) -> Array:
    flat = [jnp.ravel(jnp.asarray(part, jnp.float32)) for part in parts]
    flat_N = jnp.concatenate(flat) if flat else jnp.zeros((0,), jnp.float32)
    if flat_N.shape[0] > width:
        raise ValueError(f"tool {name!r} gives {flat_N.shape[0]} numbers where there is room for {width}")
    return jnp.pad(flat_N, (0, width - flat_N.shape[0]))
