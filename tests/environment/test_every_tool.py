"""Every tool at once: calls drawn from the specs, one compiled step for all, nothing but documented outcomes."""

from __future__ import annotations

import random

import jax
import numpy as np
import pytest

from medvista_jax.core.types import Fault, ImageBank, Kind
from medvista_jax.environment import gym
from medvista_jax.environment.build import build_environment
from medvista_jax.text.byte_tokenizer import ByteTokenizer
from medvista_jax.text.chat import ERRORS, Frame
from medvista_jax.tools.registry import ALL_TOOLS
from tests import tiny
from tests.text.fuzz import fitting_value, random_turn

TOOLS = tuple(ALL_TOOLS.values())
SPECS = [tool.spec for tool in TOOLS]
ROWS, TURNS, BYTES, SIDE = 24, 4, 256, 24
BARE = Frame("", "", "", "")
CANVAS = (40, 48)


@pytest.fixture(scope="module")
def environment():
    return build_environment(
        ByteTokenizer(), TOOLS, 1, (SIDE, SIDE), turns=TURNS, turn_tokens=BYTES, style=BARE, turn_bytes=BYTES
    )


def question(seed: int, channels: int):
    """Two originals a prompt, padded with garbage, one with spacing and a rescale; groups share them."""
    rng = np.random.default_rng(seed)
    prompts = ROWS // 2
    pixels = rng.integers(0, 256, (prompts, 2, *CANVAS, channels)).astype(np.uint16)
    pixels[:, :, 8:20, 8:24] += 300  # something to find
    size = np.stack([rng.integers(20, CANVAS[0] + 1, (prompts, 2)), rng.integers(30, CANVAS[1] + 1, (prompts, 2))], -1)
    bank = ImageBank.of(
        pixels,
        np.tile(np.float32([0, 600]), (prompts, 2, 1)),
        rng.integers(1, 3, prompts).astype(np.int32),
        size.astype(np.int32),
        np.tile(np.float32([[0.7, 0.5], [0, 0]]), (prompts, 1, 1)),
        np.tile(np.float32([[1, -1024], [-2, 50]]), (prompts, 1, 1)),
    )
    budget = np.full(prompts, TURNS, np.int32)
    none = np.zeros((prompts, 0), np.int32)
    return gym.Question(none, none.astype(bool), none, bank, budget, budget, budget)


def as_ids(turns: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    tokens, length = np.zeros((len(turns), BYTES), np.int32), np.zeros(len(turns), np.int32)
    for row, turn in enumerate(turns):
        turn = turn[-BYTES:]
        tokens[row, : len(turn)], length[row] = np.frombuffer(turn, np.uint8), len(turn)
    return tokens, length


def said(observation, row: int) -> str:
    valid = np.asarray(observation.valid_BW[row]) & (np.asarray(observation.feature_BW[row]) < 0)
    return ByteTokenizer().decode(np.asarray(observation.tokens_BW[row])[valid])


_step = jax.jit(gym.step)
_reset = jax.jit(gym.reset, static_argnames="group")
_render = jax.jit(gym.render_views)


@pytest.mark.parametrize("channels", [1, 3])
def test_calls_of_every_tool_lead_somewhere_and_compile_once(environment, channels):
    rng = random.Random(channels)
    done_well, compiled = set(), _step._cache_size()
    for episode in range(12):
        asked = question(episode, channels)
        state = _reset(environment, asked, 2)
        for _ in range(TURNS):
            specs = [SPECS[(row + episode * 5) % len(SPECS)] if row % 3 else rng.choice(SPECS) for row in range(ROWS)]
            bodies = [
                spec.render_call(
                    **{
                        a.name: rng.choice([0, 0, 1, 2]) if a.name == "image_index" else fitting_value(rng, a)
                        for a in spec.arguments
                        if a.default is None or rng.random() < 0.7
                    }
                )
                for spec in specs
            ]
            active = ~np.asarray(state.done_B)
            state, seen = _step(environment, state, *as_ids([f"<tool_call>{b}</tool_call>".encode() for b in bodies]))
            pixels = np.asarray(_render(environment, asked.bank, state.views, seen.slot_B))
            assert pixels.shape == (ROWS, SIDE, SIDE, channels)
            for leaf in jax.tree.leaves(state.views):
                assert np.isfinite(np.asarray(leaf, np.float64)).all()
            for row in np.flatnonzero(active & ~np.asarray(state.done_B)):
                fault = Fault(int(seen.parsed.fault_B[row]))
                text = said(seen, row).removesuffix(", answer now")
                assert (text == ERRORS[fault]) if fault else (text and "error" not in text), (bodies[row], text)
                if fault == Fault.NONE:
                    done_well.add(TOOLS[int(seen.parsed.tool_B[row])].name)
                    assert (int(seen.slot_B[row]) >= 0) == TOOLS[int(seen.parsed.tool_B[row])].image
    needs_colour = {"stain_separation"} if channels == 1 else set()
    assert done_well == set(ALL_TOOLS) - needs_colour
    assert _step._cache_size() - compiled == 1


def test_a_hundred_thousand_actions_get_an_observation_each():
    """Whatever is said, with the packaged tools: each row is over, or reads exactly one documented text."""
    rows, tools = 2000, tuple(tiny.DEFAULT_TOOLS.values())
    environment = build_environment(
        ByteTokenizer(), tools, 1, (8, 8), turns=2, turn_tokens=BYTES, style=BARE, turn_bytes=BYTES
    )
    rng, asked = random.Random(7), tiny.make_question(texts=["?"], max_calls=2)
    state = _reset(environment, asked, rows)
    outcomes = set()
    for _ in range(50):
        turns = [random_turn(rng, [tool.spec for tool in tools]) for _ in range(rows)]
        after, seen = jax.tree.map(np.asarray, _step(environment, state, *as_ids(turns)))
        answered = seen.parsed.kind_B == Kind.ANSWER
        assert (after.done_B == answered).all() and (seen.valid_BW.any(1) == ~answered).all()
        outcomes |= set(zip(seen.parsed.kind_B.tolist(), seen.parsed.fault_B.tolist(), strict=True))
        for row in rng.sample(np.flatnonzero(~answered).tolist(), 20):
            fault = Fault(int(seen.parsed.fault_B[row]))
            text = said(seen, row)
            assert text == (ERRORS[fault] if fault else "image 1") + ", answer now", turns[row]
    faults = {Fault(fault) for kind, fault in outcomes if kind == Kind.CALL}
    assert faults >= set(Fault) - {
        Fault.NO_ACTION,
        Fault.NO_CALLS_LEFT,
        Fault.NO_IMAGES_LEFT,
        Fault.TOOL_FAILED,
        Fault.TOOL_TIMED_OUT,
        Fault.UNSUITABLE_IMAGE,
    }
