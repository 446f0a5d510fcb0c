"""Tools by hand, outside of any episode: the same kernels and host tools on images that somebody brings."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from medvista_jax.core.tool_spec import ToolSpec, text_slots
from medvista_jax.core.tool_text import write_text
from medvista_jax.core.types import Array, Fault, ImageBank, Views
from medvista_jax.tools.base import Outcome, Sight, Tool
from medvista_jax.tools.call import ToolCall, ToolResult
from medvista_jax.tools.define import IMAGE_INDEX
from medvista_jax.tools.geometry import edges, whole_views
from medvista_jax.tools.host.apply import apply_host_calls, check_arguments
from medvista_jax.tools.host.call import HostTool
from medvista_jax.tools.host.images import default_window
from medvista_jax.tools.render import for_rows, per_row, render, shaped

CANVASES = (64, 128, 256, 512, 1024, 2048)
"""Sides of the square canvases that images are laid on: few, since each is a compiled program."""

ROWS = (1, 8, 32)
"""Calls that one compiled program carries out; a smaller batch is filled up."""

MOST_SIDE = 1024
"""Longest side of a returned image, in pixels."""


class _Job(NamedTuple):
    """A checked call of a device tool: where its result goes, its slots, and the program that it needs."""

    at: int
    call: ToolCall
    slots: list[int]
    canvas: int
    images: int
    channels: int


def apply_calls(tools: Mapping[str, Tool | HostTool], calls: Sequence[ToolCall], workers: int = 8) -> list[ToolResult]:
    """A result for each call, in order; what cannot be carried out is a fault, nothing raises for a call's content.

    Device calls of one tool on images of one canvas run as one batch. A returned image has the shape of its region and
    the canvas's longer side, at most :data:`MOST_SIDE`; its index in the text counts from the call's own images.

    Args:
      workers: threads of the host tools.
    """
    results = [ToolResult(Fault.UNKNOWN_TOOL)] * len(calls)
    hosts = {name: tool for name, tool in tools.items() if isinstance(tool, HostTool)}
    asked = [at for at, call in enumerate(calls) if call.name in hosts]
    groups: dict[tuple, list[_Job]] = {}
    for at, call in enumerate(calls):
        tool = tools.get(call.name)
        if isinstance(tool, Tool):
            job = _prepare(tool, call, at)
            if isinstance(job, Fault):
                results[at] = ToolResult(job)
            else:
                groups.setdefault((call.name, *job[3:]), []).append(job)
    for (name, *_), jobs in groups.items():
        for first in range(0, len(jobs), ROWS[-1]):
            part = jobs[first : first + ROWS[-1]]
            for job, result in zip(part, _run(tools[name], part), strict=True):
                results[job.at] = result
    for at, result in zip(asked, apply_host_calls(hosts, [calls[at] for at in asked], workers), strict=True):
        results[at] = result
    return results


def _prepare(tool: Tool, call: ToolCall, at: int) -> _Job | Fault:
    fault, arguments = check_arguments(tool.spec, call.arguments)
    if fault != Fault.NONE:
        return fault
    if not call.images:
        return Fault.NO_SUCH_IMAGE
    longest = max(max(image.shape[:2]) for image in call.images)
    canvas = next((side for side in CANVASES if side >= longest), CANVASES[-1])
    images = 1 << (len(call.images) - 1).bit_length()
    channels = max(image.shape[2] if image.ndim == 3 else 1 for image in call.images)
    return _Job(at, call, slots_of(tool.spec, arguments), canvas, images, channels)


def slots_of(spec: ToolSpec, arguments: Mapping[str, object]) -> list[int]:
    """int32 slots of checked arguments, as the parsers give them."""
    slots: list[int] = []
    for argument in spec.arguments:
        value = arguments[argument.name]
        if argument.kind == "string":
            slots += text_slots(value.encode(errors="replace")) if value else (0, 0)
        elif argument.kind == "enum":
            slots.append(argument.choices.index(value))
        else:
            slots += [int(number) for number in (value if isinstance(value, list) else [value])]
    return slots


def _run(tool: Tool, jobs: Sequence[_Job]) -> list[ToolResult]:
    rows = next(count for count in ROWS if count >= len(jobs))
    filled = [*jobs, *[jobs[-1]] * (rows - len(jobs))]
    bank = _bank(filled)
    slots_BA = np.array([job.slots for job in filled], np.int32)
    side = min(filled[0].canvas, MOST_SIDE)
    outcome, pixels_BhwC, size_B2 = jax.tree.map(np.asarray, carry_out(tool, side, bank, slots_BA))
    results = []
    for row, job in enumerate(jobs):
        fault = Fault(int(outcome.fault[row]))
        if fault != Fault.NONE:
            results.append(ToolResult(fault))
            continue
        text = write_text(tool.texts[int(outcome.text[row])], len(job.call.images), outcome.numbers_N[row])
        image = shaped(pixels_BhwC[row], size_B2[row]) if tool.image else None
        results.append(ToolResult(fault, text, image))
    return results


def _bank(jobs: Sequence[_Job]) -> ImageBank:
    """The calls' images on one canvas, a call a prompt; what is larger than the largest canvas is reduced."""
    canvas, images, channels = jobs[0][3:]
    lead = (len(jobs), images)
    pixels = np.zeros((*lead, canvas, canvas, channels), np.uint16)
    window, rescale = np.tile(np.float32([0, 1]), (*lead, 1)), np.tile(np.float32([1, 0]), (*lead, 1))
    spacing, size = np.zeros((*lead, 2), np.float32), np.ones((*lead, 2), np.int32)
    for row, job in enumerate(jobs):
        for slot, image in enumerate(job.call.images):
            kept, scale = _reduced(image if image.ndim == 3 else image[..., None], canvas)
            height, width = kept.shape[:2]
            pixels[row, slot, :height, :width] = kept  # grey spreads over the channels
            size[row, slot] = height, width
            window[row, slot] = job.call.window or default_window(image)
            rescale[row, slot] = job.call.rescale or (1, 0)
            spacing[row, slot] = np.multiply(job.call.spacing or (0, 0), scale)
    count = np.array([len(job.call.images) for job in jobs], np.int32)
    return ImageBank.of(pixels, window, count, size, spacing, rescale)


def _reduced(pixels_YXC: np.ndarray, canvas: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that fit on the canvas, and by how much rows and columns were reduced."""
    height, width = pixels_YXC.shape[:2]
    scale = min(1.0, canvas / max(height, width))
    if scale == 1.0:
        return pixels_YXC, np.ones(2)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    planes = [
        Image.fromarray(pixels_YXC[..., channel].astype(np.float32)).resize((columns, rows), Image.Resampling.BILINEAR)
        for channel in range(pixels_YXC.shape[2])
    ]
    reduced = np.round(np.stack([np.asarray(plane) for plane in planes], -1)).astype(pixels_YXC.dtype)
    return reduced, np.array([height / rows, width / columns])


@functools.partial(jax.jit, static_argnames=("tool", "side"))
def carry_out(tool: Tool, side: int, bank: ImageBank, slots_BA: Array) -> tuple[Outcome, Array | None, Array]:
    """One call of one tool for each prompt of a bank.

    Returns:
      Outcomes; the returned views as squares, uint8 ``[B, side, side, C]``, None for tools that return none; height
      and width of their regions in pixels of the original, ``[B, 2]``.
    """
    view_PO = whole_views(bank, bank.window_PO2.shape[1], 1)
    index_B = jnp.zeros(slots_BA.shape[0], jnp.int32)
    if IMAGE_INDEX.name in tool.spec.offsets():
        index_B = jnp.clip(slots_BA[:, tool.spec.offsets()[IMAGE_INDEX.name]], 0, bank.count_P - 1)
    shown_BhwC = None
    if tool.sees:
        named = jax.vmap(lambda view, index: jax.tree.map(lambda leaf: leaf[index], view))(view_PO, index_B)
        shown_BhwC = render((), bank, named, (side, side)).astype(jnp.float32)

    def one(row, originals) -> Outcome:
        slots_A, view, shown_hwC = row
        first = jax.tree.map(lambda leaf: leaf[0], view)
        outcome = tool.kernel(slots_A, Sight(first, Views(view, originals.count), originals, shown_hwC))
        if tool.effect is None:
            return outcome
        own = outcome.view
        return outcome.replace(view=own.replace(effect=own.effect.at[0].set(1), values=outcome.values_N[None]))

    rows = (slots_BA, view_PO, shown_BhwC)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(functools.partial(per_row, one), bank, rows))
    outcome = for_rows(one, bank, jnp.ones(slots_BA.shape[0], bool), rows, nothing)
    pixels_BhwC = render((tool,), bank, outcome.view, (side, side)) if tool.image else None
    return outcome, pixels_BhwC, edges(outcome.view)
