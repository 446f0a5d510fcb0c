"""One episode of the gym, played by calls, and images to play it with. Every call is text, every view is rendered."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Fault, ImageBank, Question
from medvista_jax.environment import gym
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.gym import Environment
from medvista_jax.text.tokenizer import SentencePieceTokenizer
from medvista_jax.tools.base import Tool

TOKENIZER = SentencePieceTokenizer()
CANVAS = (56, 64)
SIZE = (48, 40)  # of the view; rows, columns

reset = jax.jit(gym.reset, static_argnames=("group",))
step = jax.jit(gym.step)
render = jax.jit(gym.render_views)


@functools.cache
def environment(*tools: Tool, size: tuple[int, int] = SIZE, turns: int = 7) -> Environment:
    return build_environment(TOKENIZER, tools, 1, size, turns, turn_tokens=128, turn_bytes=384)


def bank(images: Sequence[np.ndarray], windows=None, rescale=None, canvas=CANVAS, seed: int = 0) -> ImageBank:
    """Images ``[h, w, C]`` of one question on padded canvases; what lies beyond them is noise that nobody must see."""
    depth, channels = images[0].dtype, images[0].shape[2]
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, np.iinfo(depth).max, (1, len(images), *canvas, channels)).astype(depth)
    for at, image in enumerate(images):
        pixels[0, at, : image.shape[0], : image.shape[1]] = image
    window = np.tile(np.array([0.0, 255.0], np.float32), (1, len(images), 1)) if windows is None else windows
    size = np.array([[image.shape[:2] for image in images]], np.int32)
    scale = None if rescale is None else np.array([rescale], np.float32)
    window = np.array(window, np.float32).reshape(1, len(images), 2)
    return jax.tree.map(jnp.asarray, ImageBank.of(pixels, window, size_PO2=size, rescale_PO2=scale))


class Episode:
    """Calls and what came of them."""

    def __init__(self, environment: Environment, bank: ImageBank):
        many = np.full((1,), 99, np.int32)
        none = np.zeros((1, 1), np.int32)
        question = Question(none, none > 0, none - 1, bank, many, many, many)
        self.environment, self.bank = environment, bank
        self.state = reset(environment, question, 1)

    def call(self, name: str, **arguments) -> int:
        """Index of the image that the call returned."""
        fault, _ = self.attempt(name, **arguments)
        assert fault == Fault.NONE, f"{name} {arguments}: {fault!r}"
        return int(self.state.views.count_B[0]) - 1

    def attempt(self, name: str, **arguments) -> tuple[Fault, str]:
        """The fault and the observation's text."""
        call = f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"
        ids = TOKENIZER.encode(call)
        tokens = np.full((1, 128), TOKENIZER.pad_id, np.int32)
        tokens[0, : len(ids)] = ids
        self.state, said = step(self.environment, self.state, tokens, np.array([len(ids)], np.int32))
        text = TOKENIZER.decode(np.asarray(said.tokens_BW[0])[np.asarray(said.valid_BW[0])])
        return Fault(int(said.parsed.fault_B[0])), text

    def pixels(self, index: int) -> np.ndarray:
        """The view as the policy sees it: uint8 ``[h, w, C]``."""
        slot_B = np.array([index], np.int32)
        return np.asarray(render(self.environment, self.bank, self.state.views, slot_B)[0])


def after(tools: Sequence[Tool], bank: ImageBank, calls: Sequence[tuple[str, Mapping]], size=SIZE) -> np.ndarray:
    """What the last of some calls shows, each on the image that the one before returned."""
    episode, index = Episode(environment(*tools, size=size), bank), 0
    for name, arguments in calls:
        index = episode.call(name, **{"image_index": index, **arguments})
    return episode.pixels(index)


def smooth(rows: int, columns: int, channels: int = 1, seed: int = 0, most: float = 255.0) -> np.ndarray:
    """A few waves, no wave shorter than 12 pixels: float64 0…most, ``[rows, columns, channels]``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns][..., None] / 12.0
    waves = np.zeros((rows, columns, channels))
    for _ in range(4):
        a, b, phase = rng.uniform(-4, 4, channels), rng.uniform(-4, 4, channels), rng.uniform(0, 6, channels)
        waves += np.cos(a * x + b * y + phase) * rng.uniform(0.5, 1, channels)
    waves -= waves.min()
    return waves * most / waves.max()


def noise(rows: int, columns: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """uint8 noise, every level somewhere."""
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, channels)).astype(np.uint8)
