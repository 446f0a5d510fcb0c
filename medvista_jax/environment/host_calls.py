"""From rows that ask host tools to what those tools said: the pause between two compiled steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from medvista_jax.core.tool_spec import python_values
from medvista_jax.core.types import Array, Fault, ImageBank, View
from medvista_jax.environment.gym import Environment, EnvState
from medvista_jax.text.chat import HostWords
from medvista_jax.text.host_parser import parse_turn_text
from medvista_jax.text.tokenizer import Tokenizer, encode_plain
from medvista_jax.tools.define import IMAGE_INDEX
from medvista_jax.tools.geometry import edges
from medvista_jax.tools.host.batch import run_batch
from medvista_jax.tools.host.call import HostCall, HostReply, HostTool
from medvista_jax.tools.render import render, shaped

SIDES = (256, 512, 1024)
"""Longer sides, in pixels, of the images that host tools are given: few, since each one is a compiled program."""

Run = Callable[[Mapping[str, HostTool], Sequence[HostCall]], Sequence[HostReply]]
"""Answers one batch of calls; :func:`medvista_jax.tools.host.batch.run_batch` unless told otherwise."""


def answer_calls(
    environment: Environment,
    tokenizer: Tokenizer,
    state: EnvState,
    turns: Sequence[bytes],
    asks_B: np.ndarray,
    run: Run = run_batch,
) -> HostWords:
    """Run the host tools of the rows that asked, as one batch.

    Args:
      state: before the turn is carried out.
      turns: bytes of each row's turn; only those of rows that ask are read.
      asks_B: of :func:`medvista_jax.environment.gym.asks_host`.
      tokenizer: whose ids the policy reads. A tag in a tool's text acts as no tag.
    """
    rows = np.flatnonzero(asks_B)
    tools = {tool.spec.name: tool for tool in environment.host_tools.values()}
    replies = run(tools, [_call(environment, state, turns[row], int(row)) for row in rows]) if len(rows) else ()
    words = no_words(environment, len(asks_B))
    for row, reply in zip(rows, replies, strict=True):
        words.fault_B[row] = reply.fault
        ids = encode_plain(tokenizer, reply.text)[: words.tokens_BN.shape[1]] if reply.fault == Fault.NONE else []
        words.tokens_BN[row, : len(ids)], words.length_B[row] = ids, len(ids)
    return words


def no_words(environment: Environment, rows: int) -> HostWords:
    """Numpy arrays for rows that asked nothing."""
    capacity = int(np.max(np.asarray(environment.templates.said_NW), initial=-1)) + 1
    return HostWords(np.zeros(rows, np.int32), np.zeros((rows, max(capacity, 1)), np.int32), np.zeros(rows, np.int32))


def _call(environment: Environment, state: EnvState, turn: bytes, row: int) -> HostCall:
    specs = [tool.spec for tool in environment.tools]
    said = parse_turn_text(specs, turn, environment.turn_bytes, environment.answer_bytes)
    spec = specs[said.tool]
    values = python_values(spec, said.arguments, said.texts)
    if IMAGE_INDEX.name not in values:
        return HostCall(spec.name, None, values)
    return HostCall(spec.name, full_view(environment, state, row, values[IMAGE_INDEX.name]), values)


def full_view(environment: Environment, state: EnvState, row: int, slot: int) -> np.ndarray:
    """An image of a row as displayed, in the shape of its region: uint8 ``[Y, X, 3]``.

    The longer side is the smallest of :data:`SIDES` that holds all of the region's pixels, else the largest of them.
    """
    prompt = row // (state.done_B.shape[0] // state.bank.window_PO2.shape[0])
    view = jax.tree.map(lambda leaf: np.asarray(leaf[row, slot]), state.views.view)
    size_2 = np.asarray(edges(view))
    side = next((side for side in SIDES if side >= size_2.max()), SIDES[-1])
    bank = jax.tree.map(lambda leaf: leaf[prompt : prompt + 1], state.bank)
    pixels_hwC = np.asarray(_render(environment.tools, bank, jax.tree.map(lambda x: x[None], view), side))[0]
    return np.asarray(Image.fromarray(shaped(pixels_hwC, size_2)).convert("RGB"))


@functools.partial(jax.jit, static_argnames=("tools", "side"))
def _render(tools, bank: ImageBank, view: View, side: int) -> Array:
    return render(tools, bank, jax.tree.map(jnp.asarray, view), (side, side))
