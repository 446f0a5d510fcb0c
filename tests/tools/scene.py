"""Images, views and calls that the tests of measuring tools share, and float64 geometry to compare with."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Blend, Fault, ImageBank, Question, View, Views
from medvista_jax.environment import gym
from medvista_jax.environment.build import build_environment
from medvista_jax.text.tokenizer import SentencePieceTokenizer
from medvista_jax.tools.base import EFFECT_VALUES, Originals, Outcome, Sight, Tool
from medvista_jax.tools.flip import flip
from medvista_jax.tools.pan_compare import pan_compare
from medvista_jax.tools.rotate import rotate
from medvista_jax.tools.zoom_in import zoom_in

CANVAS = (40, 48)
SIZES = np.array([(33, 41), (40, 48)], np.int32)
"""Rows and columns in use: the first image is padded."""

SPACING = np.array([(0.7, 0.5), (0.0, 0.0)], np.float32)
RESCALE = {"grey": ((1.0, 0.0), (1.0, 0.0)), "ct": ((1.0, -1024.0), (-0.5, 100.0)), "colour": ((1.0, 0.0), (1.0, 0.0))}


@functools.cache
def pixels(kind: str) -> np.ndarray:
    """Noise, two images ``[2, Y, X, C]``; of ``grey``, ``ct`` (12 bits, rescaled), ``colour``; garbage beyond."""
    rng = np.random.default_rng(len(kind))
    channels, top = (3 if kind == "colour" else 1), (4095 if kind == "ct" else 255)
    rough = rng.random((2, CANVAS[0] // 4, CANVAS[1] // 4, channels))
    smooth = np.repeat(np.repeat(rough, 4, axis=1), 4, axis=2) * 0.7 + 0.3 * rng.random((2, *CANVAS, channels))
    stored = np.round(smooth * top).astype(np.uint16 if kind == "ct" else np.uint8)
    stored[0, SIZES[0, 0] :] = stored[0, :, SIZES[0, 1] :] = np.iinfo(stored.dtype).max
    return stored


def originals(kind: str) -> Originals:
    return Originals(
        pixels_OYXC=jnp.asarray(pixels(kind)),
        window_O2=jnp.array([(0.0, 4095.0 if kind == "ct" else 255.0)] * 2),
        count=jnp.int32(2),
        size_O2=jnp.asarray(SIZES),
        spacing_O2=jnp.asarray(SPACING),
        rescale_O2=jnp.asarray(RESCALE[kind]),
    )


def grey(stored: np.ndarray) -> np.ndarray:
    """Rec. 601 luminance rounded half up, in whole thousandths: float64 ``[…, C] -> […]``."""
    if stored.shape[-1] == 1:
        return stored[..., 0].astype(float)
    return ((stored.astype(int) @ np.array([299, 587, 114]) + 500) // 1000).astype(float)


def physical(kind: str, source: int) -> np.ndarray:
    """The image without its padding, in physical units, float64."""
    slope, intercept = RESCALE[kind][source]
    return grey(pixels(kind)[source])[: SIZES[source, 0], : SIZES[source, 1]] * slope + intercept


VIEWS = ("whole", "second", "zoom", "flipped", "quarter", "tilted", "pair")


@functools.cache
def sight(kind: str) -> Sight:
    """A row whose images are ``VIEWS``; the first is what ``view`` says."""
    one = originals(kind)

    def whole(source: int) -> View:
        rows, columns = (float(side) for side in SIZES[source])
        affine = jnp.array([[columns, 0.0, 0.0], [0.0, rows, 0.0]])
        return View(
            source=jnp.full((2,), source, jnp.int32),
            affine=jnp.stack([affine, affine]),
            window=jnp.stack([one.window_O2[source]] * 2),
            blend=jnp.int32(Blend.ONE),
            seam=jnp.zeros(3),
            effect=jnp.zeros((4,), jnp.int32),
            values=jnp.zeros((4, EFFECT_VALUES)),
        )

    def then(tool: Tool, *arguments: int) -> View:
        seen = [whole(0), whole(1)]
        views = Views(view=jax.tree.map(lambda *leaves: jnp.stack(leaves), *seen), count_B=jnp.int32(2))
        return tool.kernel(jnp.array(arguments, jnp.int32), Sight(seen[0], views, one)).view

    rows = [whole(0), whole(1), then(zoom_in, 130, 210, 770, 830, 0), then(flip, 0, 0), then(rotate, 90, 0)]
    rows += [then(rotate, 30, 0), then(pan_compare, 100, 100, 600, 900, 300, 200, 950, 700, 0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    return Sight(rows[0], Views(view=stacked, count_B=jnp.int32(len(rows))), one)


_run = jax.jit(lambda tool, arguments_A, seen: tool.kernel(arguments_A, seen), static_argnums=0)


def call(tool: Tool, kind: str, *arguments: int, view: str = "whole") -> Outcome:
    """What a call on one of ``VIEWS`` leads to; compiled once a tool and kind of image."""
    at = VIEWS.index(view)
    return jax.tree.map(np.asarray, _run(tool, jnp.array([*arguments, at], jnp.int32), sight(kind)))


def compilations() -> int:
    """How many programs :func:`call` has made."""
    return _run._cache_size()


def numbers(outcome: Outcome) -> np.ndarray:
    assert outcome.fault == Fault.NONE
    return outcome.numbers_N


def place(view: str, point: tuple[float, float], kind: str = "grey") -> tuple[int, np.ndarray]:
    """Original and (x, y) in its pixels of a point in 0…1000, float64."""
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[VIEWS.index(view)], sight(kind).views.view)
    u, v = np.array(point) / 1000
    panel = int(one.blend == Blend.SEAM and one.seam[:2] @ (u, v) >= one.seam[2])
    return int(one.source[panel]), one.affine[panel].astype(float) @ (u, v, 1.0)


def within(view: str, box: tuple[int, ...], kind: str = "grey") -> tuple[int, np.ndarray]:
    """Original, and which of its pixels have their centre in a box of a view: bool, the size of the image."""
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[VIEWS.index(view)], sight(kind).views.view)
    middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2000
    panel = int(one.blend == Blend.SEAM and one.seam[:2] @ middle >= one.seam[2])
    source, square = int(one.source[panel]), np.vstack([one.affine[panel].astype(float), (0, 0, 1)])
    y, x = np.mgrid[: SIZES[source, 0], : SIZES[source, 1]] + 0.5
    u, v = (np.linalg.inv(square) @ [x.ravel(), y.ravel(), np.ones(x.size)])[:2]
    inside = (u * 1000 >= box[0]) & (u * 1000 < box[2]) & (v * 1000 >= box[1]) & (v * 1000 < box[3])
    if one.blend == Blend.SEAM:
        inside &= (one.seam[0] * u + one.seam[1] * v >= one.seam[2]) == bool(panel)
    return source, inside.reshape(x.shape)


BOXES = ((0, 0, 1000, 1000), (101, 203, 607, 911), (333, 51, 489, 399), (3, 601, 997, 777), (517, 203, 907, 811))
"""None has an edge through the centre of a pixel in one of ``VIEWS``: rounding decides nothing."""


TOKENIZER = SentencePieceTokenizer()
TURN_TOKENS = 80
_reset, _step, _render = jax.jit(gym.reset, static_argnums=2), jax.jit(gym.step), jax.jit(gym.render_views)


def play(tools: Sequence[Tool], kind: str, *calls: tuple[str, dict], size: tuple[int, int] = (40, 40)):
    """What the gym says to one call after another over the two images of ``kind``, and what it shows of each image.

    Returns:
      Texts, and uint8 ``[h, w, C]`` for every image slot in use.
    """
    environment = build_environment(TOKENIZER, tuple(tools), 1, size, turns=len(calls) + 1, turn_tokens=TURN_TOKENS)
    one = jax.tree.map(lambda leaf: leaf[None], originals(kind))
    bank = ImageBank(one.pixels_OYXC, one.window_O2, one.count, one.size_O2, one.spacing_O2, one.rescale_O2)
    budget, none = jnp.array([len(calls) + 1], jnp.int32), jnp.zeros((1, 1), jnp.int32)
    state = _reset(environment, Question(none, none >= 0, none - 1, bank, budget, budget, budget), 1)
    said = []
    for name, arguments in calls:
        text = json.dumps({"name": name, "arguments": arguments})
        ids = TOKENIZER.encode(f"<tool_call>{text}</tool_call>")
        assert len(ids) <= TURN_TOKENS, f"{text} takes {len(ids)} tokens"
        tokens = jnp.array([ids + [TOKENIZER.pad_id] * (TURN_TOKENS - len(ids))], jnp.int32)
        state, seen = _step(environment, state, tokens, jnp.array([len(ids)], jnp.int32))
        said.append(TOKENIZER.decode(np.asarray(seen.tokens_BW[0])[np.asarray(seen.valid_BW[0])]))
    slots = range(int(state.views.count_B[0]))
    return said, [np.asarray(_render(environment, bank, state.views, jnp.array([k], jnp.int32))[0]) for k in slots]
