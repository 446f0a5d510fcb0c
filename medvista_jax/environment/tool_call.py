"""The calls of one turn: every row's own tool, and the budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from medvista_jax.core.tool_text import NUMBERS
from medvista_jax.core.types import Array, Fault, Kind, ParsedTurn, View, Views
from medvista_jax.text.chat import HostWords
from medvista_jax.tools.base import EFFECT_VALUES, Outcome, Sight, Tool
from medvista_jax.tools.define import IMAGE_INDEX
from medvista_jax.tools.host.call import HostTool
from medvista_jax.tools.render import all_rows, for_rows, render

if TYPE_CHECKING:
    from medvista_jax.environment.gym import Environment, EnvState


def run_tools(environment: Environment, state: EnvState, parsed: ParsedTurn) -> tuple[Outcome, Array]:
    """What every row's call leads to, and its fault; rows without a call keep the fault of their text.

    Kernels that only move a recipe run over all rows and the row's own tool is selected. Those that read or see pixels
    run when a row of the batch has called them.
    """
    call_B = ~state.done_B & (parsed.kind_B == Kind.CALL)
    outcome = _nothing(state)
    for index, tool in enumerate(environment.tools):
        mine_B = call_B & (parsed.fault_B == Fault.NONE) & (parsed.tool_B == index)
        if isinstance(tool, HostTool):
            fault_B = missing_image(tool, parsed, state.views)
            outcome = outcome.replace(fault=jnp.where(mine_B, fault_B, outcome.fault))
            continue

        def call(outcome: Outcome, tool: Tool = tool, index: int = index, mine_B: Array = mine_B) -> Outcome:
            return _call(environment, tool, index, state, parsed, mine_B, outcome)

        if tool.reads or tool.sees:
            outcome = jax.lax.cond(jnp.any(mine_B), call, lambda outcome: outcome, outcome)
        else:
            outcome = call(outcome)
    image_B = environment.image_J[jnp.maximum(parsed.tool_B, 0)]
    full_B = image_B & (state.views.count_B >= state.max_images_B)
    fault_B = jnp.where(parsed.fault_B == Fault.NONE, outcome.fault, parsed.fault_B)
    fault_B = jnp.where((fault_B == Fault.NONE) & full_B, int(Fault.NO_IMAGES_LEFT), fault_B)
    fault_B = jnp.where(state.calls_B >= state.max_calls_B, int(Fault.NO_CALLS_LEFT), fault_B)
    return outcome, jnp.where(call_B, fault_B, parsed.fault_B)


def merge_words(environment: Environment, parsed: ParsedTurn, fault_B: Array, words: HostWords | None) -> Array:
    """The faults, those of host tools included; a host tool that nobody ran has failed."""
    if not environment.host_tools:
        return fault_B
    asked_B = jnp.isin(parsed.tool_B, jnp.array(list(environment.host_tools))) & (fault_B == Fault.NONE)
    said_B = jnp.full_like(fault_B, int(Fault.TOOL_FAILED)) if words is None else words.fault_B
    return jnp.where(asked_B, said_B, fault_B)


def _call(
    environment: Environment,
    tool: Tool,
    index: int,
    state: EnvState,
    parsed: ParsedTurn,
    mine_B: Array,
    otherwise: Outcome,
) -> Outcome:
    """One tool's kernel in the rows that are its own, its effect stacked on the view."""
    shown_BhwC = None
    if tool.sees:
        at = tool.spec.offsets()[IMAGE_INDEX.name]
        slot_B = jnp.clip(parsed.arguments_BA[:, at], 0, state.views.count_B - 1)
        view = jax.tree.map(lambda leaf: jax.vmap(lambda row, slot: row[slot])(leaf, slot_B), state.views.view)
        shown_BhwC = render(environment.tools, state.bank, view, environment.view_size, mine_B).astype(jnp.float32)

    def one(row, originals) -> Outcome:
        arguments_A, views, shown_hwC = row
        first = jax.tree.map(lambda leaf: leaf[0], views.view)
        outcome = tool.kernel(arguments_A, Sight(first, views, originals, shown_hwC))
        return outcome if tool.effect is None else outcome.replace(view=_stacked(outcome, index))

    on_rows = for_rows if tool.reads or tool.sees else all_rows
    return on_rows(one, state.bank, mine_B, (parsed.arguments_BA, state.views, shown_BhwC), otherwise)


def _stacked(outcome: Outcome, index: int) -> View:
    """The view with the tool's effect in the first free place; there are as many places as calls that show images."""
    view = outcome.view
    free = jnp.argmin(view.effect != 0)
    return view.replace(effect=view.effect.at[free].set(index + 1), values=view.values.at[free].set(outcome.values_N))


def missing_image(tool: HostTool, parsed: ParsedTurn, views: Views) -> Array:
    """NO_SUCH_IMAGE where the call of a host tool names an image that is not there, else NONE."""
    if IMAGE_INDEX.name not in tool.spec.offsets():
        return jnp.zeros_like(parsed.fault_B)
    index_B = parsed.arguments_BA[:, tool.spec.offsets()[IMAGE_INDEX.name]]
    missing_B = (index_B < 0) | (index_B >= views.count_B)
    return jnp.where(missing_B, int(Fault.NO_SUCH_IMAGE), int(Fault.NONE)).astype(jnp.int32)


def _nothing(state: EnvState) -> Outcome:
    """The outcome of rows that call nothing: the first image."""
    rows = state.done_B.shape[0]
    return Outcome(
        fault=jnp.zeros((rows,), jnp.int32),
        view=jax.tree.map(lambda leaf: leaf[:, 0], state.views.view),
        values_N=jnp.zeros((rows, EFFECT_VALUES)),
        text=jnp.zeros((rows,), jnp.int32),
        numbers_N=jnp.zeros((rows, NUMBERS)),
    )
