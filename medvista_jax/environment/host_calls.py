"""Between the compiled program and the host tools: the rows that ask become calls, the replies become words."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from medvista_jax.core.tool_spec import python_values
from medvista_jax.core.types import Array, Blend, View
from medvista_jax.environment.gym import Environment, EnvState
from medvista_jax.text.chat import HostWords
from medvista_jax.text.host_parser import parse_turn_text
from medvista_jax.tools.define import IMAGE_INDEX
from medvista_jax.tools.geometry import look_through
from medvista_jax.tools.host.batch import run_batch
from medvista_jax.tools.host.call import HostCall, HostReply
from medvista_jax.tools.render import render

SMALLEST_SIDE, LARGEST_SIDE = 64, 2048
"""Sides of the squares in which views are rendered for host tools: the powers of two between, a program each."""


def host_words(
    environment: Environment,
    state: EnvState,
    turns: Mapping[int, bytes],
    host_tokens: int,
    workers: int,
) -> HostWords:
    """Runs the calls of ``turns`` as one batch.

    Args:
      state: before the turn; every row has a prompt of its own.
      turns: bytes of the turns of the rows that :func:`medvista_jax.environment.gym.asks_host` names.
      host_tokens: byte tokens that a reply may take.
      workers: threads.
    """
    rows = list(turns)
    calls = [host_call(environment, state, row, turns[row]) for row in rows]
    tools = {tool.name: tool for tool in environment.host_tools.values()}
    return as_words(dict(zip(rows, run_batch(tools, calls, workers), strict=True)), state.done_B.shape[0], host_tokens)


def as_words(replies: Mapping[int, HostReply], batch: int, host_tokens: int) -> HostWords:
    """Replies by row as byte tokens; rows without one say nothing."""
    fault_B, length_B = np.zeros(batch, np.int32), np.zeros(batch, np.int32)
    tokens_BN = np.zeros((batch, host_tokens), np.int32)
    for row, reply in replies.items():
        raw = np.frombuffer(reply.text.encode(errors="replace")[:host_tokens], np.uint8)
        fault_B[row], length_B[row], tokens_BN[row, : len(raw)] = int(reply.fault), len(raw), raw
    return HostWords(fault_B=fault_B, tokens_BN=tokens_BN, length_B=length_B)


def host_call(environment: Environment, state: EnvState, row: int, turn: bytes) -> HostCall:
    """The call that a turn spells; the host parser is asked because the device keeps no text of an argument."""
    said = parse_turn_text([tool.spec for tool in environment.tools], turn, environment.turn_bytes)
    spec = environment.tools[said.tool].spec
    arguments = python_values(spec, said.arguments, said.texts)
    image = None
    if IMAGE_INDEX.name in arguments:
        image = full_view(environment, state, row, arguments[IMAGE_INDEX.name])
    return HostCall(spec.name, image, arguments)


def full_view(environment: Environment, state: EnvState, row: int, slot: int) -> np.ndarray:
    """An image as the policy sees it, at the resolution of its original: uint8 ``[Y, X, 3]``.

    A view of k by l original pixels has k rows and l columns (turned ones accordingly), at most ``LARGEST_SIDE``. A
    view without effects is sampled at just those; effects want the whole view, which fills the square and is reduced.
    """
    view = jax.tree.map(lambda leaf: np.asarray(leaf[row, slot]), state.views.view)
    height, width = region_size(view)
    side = max(SMALLEST_SIDE, 1 << (max(height, width) - 1).bit_length())
    plain = not view.effect.any()
    # The square goes on beyond the region, a pixel a pixel, and the region is cut from it.
    stretch_2 = np.array([side / width, side / height] if plain else [1, 1], np.float32)
    square_YXC = np.asarray(_square(environment, state, row, slot, stretch_2, side))
    shown_YXC = square_YXC[:height, :width] if plain else square_YXC
    shown_YX3 = np.broadcast_to(shown_YXC, (*shown_YXC.shape[:2], 3))
    if plain:
        return np.ascontiguousarray(shown_YX3)
    reduced = Image.fromarray(np.ascontiguousarray(shown_YX3)).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(reduced)


def region_size(view: View) -> tuple[int, int]:
    """Rows and columns of the view in pixels of its original, of the finer panel where there are two."""
    panels = 1 if view.blend == Blend.ONE else 2
    width, height = np.linalg.norm(np.asarray(view.affine)[:panels, :, :2], axis=1).max(axis=0)
    most = max(width, height, 1.0)
    scale = min(1.0, LARGEST_SIDE / most)
    return max(1, round(float(height * scale))), max(1, round(float(width * scale)))


@functools.partial(jax.jit, static_argnames="side")
def _square(environment: Environment, state: EnvState, row: Array, slot: Array, stretch_2: Array, side: int) -> Array:
    """uint8 ``[side, side, C]``: a view whose (u, v) run from 0 to ``stretch``."""
    own = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, row, keepdims=True)  # noqa: E731
    view = jax.tree.map(lambda leaf: own(leaf)[:, slot], state.views.view)
    zero = jnp.zeros(())
    stretch_23 = jnp.stack([jnp.stack([stretch_2[0], zero, zero]), jnp.stack([zero, stretch_2[1], zero])])
    wide = jax.vmap(look_through, in_axes=(0, None))(view, stretch_23)
    return render(environment.tools, jax.tree.map(own, state.bank), wide, (side, side))[0]
