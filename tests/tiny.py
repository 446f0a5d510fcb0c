"""A model, an environment and questions small enough that a compiled rollout takes a second or two.

Nothing here reads an image from disk: canvases are seeded noise.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medvista_jax.core.types import AnswerKey, ImageBank, Params, Question, Trajectory, Views
from medvista_jax.environment import gym
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.gym import Environment
from medvista_jax.learning.grpo import GRPOConfig, chunk_loss, grpo_step
from medvista_jax.learning.losses import row_weights, score_tokens
from medvista_jax.learning.rewards import PRESETS, RewardTerms, correctness
from medvista_jax.learning.sft import SFTConfig, sft_step
from medvista_jax.learning.state import TrainState, split, start
from medvista_jax.models.blocks import DecoderConfig
from medvista_jax.models.medvista_tiny import MedVistaTiny
from medvista_jax.models.medvista_tiny.modeling import MedVistaTinyConfig
from medvista_jax.rollout.loop import Script, rollout
from medvista_jax.rollout.record import pack
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.rollout.scripted import enact
from medvista_jax.text.chat import render_prompt
from medvista_jax.text.normalise import normalise
from medvista_jax.text.tokenizer import SentencePieceTokenizer
from medvista_jax.tools.geometry import outline
from medvista_jax.tools.registry import DEFAULT_TOOLS

TOKENIZER = SentencePieceTokenizer()
VOCAB = TOKENIZER.vocab_size
MODEL = MedVistaTiny(
    MedVistaTinyConfig(
        vocab_size=VOCAB,
        image=16,
        patch=4,
        vision_width=16,
        vision_heads=2,
        decoder=DecoderConfig(VOCAB, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, feed_forward=48),
    )
)
TURNS, TURN_TOKENS, PROMPT_SLOTS, PROMPTS = 3, 40, 36, 3
CANVAS = (24, 30)  # not square, not a multiple of the view
QUESTIONS = ("Which?", "How many nuclei are in it?", "A or B")  # three lengths: padded prompts
ANSWERS = ("left", "7", "A")

ZOOM = '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [100, 200, 600, 900]}}</tool_call>'
ZOOM_AGAIN = '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 500, 500], "image_index": 1}}</tool_call>'
WINDOW = '<tool_call>{"name": "adjust_window", "arguments": {"low": 0, "high": 30000}}</tool_call>'

# Compiled once a process, whoever calls them with the same shapes.
play = jax.jit(rollout, static_argnames=("model", "group"))
score = jax.jit(score_tokens, static_argnames=("model",))
forward, encode, logits = jax.jit(MODEL.forward), jax.jit(MODEL.encode_images), jax.jit(MODEL.logits)
reset, _step = jax.jit(gym.reset, static_argnames=("group",)), jax.jit(gym.step)
STEP_ROWS = 18
render_views, render_originals = jax.jit(gym.render_views), jax.jit(gym.render_originals)
enacted = jax.jit(functools.partial(enact, MODEL))
packed = jax.jit(pack, static_argnums=1)


@functools.cache
def environment() -> Environment:
    return build_environment(
        TOKENIZER,
        tuple(DEFAULT_TOOLS.values()),
        MODEL.tokens_per_image,
        MODEL.image_size,
        turns=TURNS,
        turn_tokens=TURN_TOKENS,
    )


@functools.cache
def params(seed: int = 0) -> Params:
    """Random parameters, norms and biases perturbed too, so that no default hides; logits of unit size and more.

    Drawn by numpy: compiling ``init`` would take longer than most tests.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        spread = {"kernel": leaf.shape[0] ** -0.5, "position": 0.5}.get(name, 0.0)
        value = (name == "scale") + np.hypot(spread, 0.1) * rng.standard_normal(leaf.shape)
        return jnp.asarray(value, jnp.float32)

    return jax.tree.map_with_path(draw, jax.eval_shape(MODEL.init, jax.random.key(seed)))


def step(environment, state, tokens_BT, length_B):
    """One compiled program for any number of rows, of as many prompts."""
    result = _step(environment, *filled((state, tokens_BT, length_B)))
    return jax.tree.map(lambda x: np.asarray(x)[: len(length_B)], result)


def filled(tree):
    """The last row repeated up to a multiple of ``STEP_ROWS``."""
    fill = lambda x: np.concatenate([x, np.repeat(np.asarray(x)[-1:], -len(x) % STEP_ROWS, axis=0)])  # noqa: E731
    return jax.tree.map(fill, tree)


def make_question(
    seed: int = 0,
    texts: Sequence[str] = QUESTIONS,
    originals: int = 1,
    max_turns: int | Sequence[int] = TURNS,
    max_calls: int | Sequence[int] = TURNS,
    max_images: int | Sequence[int] = TURNS,
) -> Question:
    """Questions over uint16 noise; every prompt shows all of its originals."""
    rng = np.random.default_rng(seed)
    count = len(texts)
    tokens = np.full((count, PROMPT_SLOTS + 8 * (originals - 1)), TOKENIZER.pad_id, np.int32)
    feature, valid = np.full(tokens.shape, -1, np.int32), np.zeros(tokens.shape, bool)
    specs = [tool.spec for tool in DEFAULT_TOOLS.values()]
    for row, text in enumerate(texts):
        prompt = render_prompt(TOKENIZER, text, [MODEL.tokens_per_image] * originals, specs)
        size = len(prompt.tokens)
        tokens[row, :size], feature[row, :size], valid[row, :size] = prompt.tokens, prompt.feature, True
    pixels = rng.integers(0, 60_000, (count, originals, *CANVAS, 1)).astype(np.uint16)
    window = np.tile(np.array([100.0, 50_000.0], np.float32), (count, originals, 1))
    window[:, :, 1] += np.arange(count, dtype=np.float32)[:, None]
    return jax.tree.map(
        jnp.asarray,
        Question(
            tokens_PS=tokens,
            valid_PS=valid,
            feature_PS=feature,
            bank=ImageBank.of(pixels, window),
            max_turns_P=np.broadcast_to(np.int32(max_turns), (count,)).copy(),
            max_calls_P=np.broadcast_to(np.int32(max_calls), (count,)).copy(),
            max_images_P=np.broadcast_to(np.int32(max_images), (count,)).copy(),
        ),
    )


def make_key(answers: Sequence[str] = ANSWERS, width: int = 32) -> AnswerKey:
    rows = np.zeros((len(answers), width), np.uint8)
    for row, answer in enumerate(answers):
        raw = normalise(answer)
        rows[row, : len(raw)] = np.frombuffer(raw, np.uint8)
    count = len(answers)
    return AnswerKey(jnp.asarray(rows), jnp.zeros((count, 4)), jnp.zeros((count,), jnp.int32))


def make_script(rows: Sequence[Sequence[str | Sequence[int]]]) -> Script:
    """Turns of each row as text or as ids; ``""`` leaves the turn to the policy (or silent, where nothing samples)."""
    tokens = np.full((len(rows), TURNS, TURN_TOKENS), TOKENIZER.pad_id, np.int32)
    length = np.zeros((len(rows), TURNS), np.int32)
    for row, turns in enumerate(rows):
        for turn, said in enumerate(turns):
            ids = TOKENIZER.encode(said) if isinstance(said, str) else list(said)
            assert len(ids) <= TURN_TOKENS, f"{said!r} takes {len(ids)} tokens"
            tokens[row, turn, : len(ids)], length[row, turn] = ids, len(ids)
    return Script(jnp.asarray(tokens), jnp.asarray(length))


MIXED = (
    (ZOOM, "", ""),  # a view, then sampled turns
    ("<think>x</think>" + WINDOW, ZOOM_AGAIN, ""),
    ("<answer>left</answer>", "", ""),  # over at once
    ("", ZOOM, "<answer>7</answer>"),  # sampled first
    ("<tool_call>{</tool_call>", ZOOM, ""),
    ("", "", ""),
)
"""Six rows (group 2 of three prompts): ragged, with views, faults, answers and sampled turns."""


def script_of(trajectory: Trajectory) -> Script:
    """The turns of a trajectory as a script that plays them again."""
    t = jax.tree.map(np.asarray, trajectory)
    rows = [
        [t.tokens_BS[b][t.sampled_BS[b] & (t.turn_BS[b] == turn)].tolist() for turn in range(TURNS)]
        for b in range(len(t.tokens_BS))
    ]
    return make_script(rows)


def boxes_of(views: Views) -> np.ndarray:
    """x1 y1 x2 y2 of every view in 0…1 of its original, which fills the canvas."""
    return outline(np.asarray(views.view.affine[:, :, 0]), np.array(CANVAS))


def texts_of(trajectory: Trajectory, row: int) -> str:
    """The row's sequence as text."""
    return TOKENIZER.decode(np.asarray(trajectory.tokens_BS[row])[np.asarray(trajectory.valid_BS[row])])


@functools.cache
def optimizer() -> optax.GradientTransformation:
    return optax.adam(1e-2)


def make_state(trainable: Sequence[str] = ("^decoder",), seed: int = 0) -> TrainState:
    return start(params(), trainable, optimizer(), jax.random.key(seed))


def same_bits(one, other) -> bool:
    """Whether two trees hold the same bytes."""
    a, b = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(a) == len(b) and all(raw(x) == raw(y) for x, y in zip(a, b, strict=True))


def raw(leaf) -> bytes:
    if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def pays_for_low_ids(trajectory: Trajectory, key: AnswerKey) -> RewardTerms:
    """A bandit: the share of sampled ids in the lower half of the vocabulary. Right or wrong is noted, not paid."""
    low_BS = trajectory.sampled_BS & (trajectory.tokens_BS < VOCAB // 2)
    share_B = jnp.sum(low_BS, axis=1) / jnp.maximum(jnp.sum(trajectory.sampled_BS, axis=1), 1)
    return RewardTerms(share_B, correctness(trajectory, key), {"low": share_B})


PRESETS["low_ids"] = pays_for_low_ids
# One program each: a bucket is a program of its own, and tests/learning/test_accumulate.py has them.
GRPO = GRPOConfig(group=4, reward="low_ids", buckets=(), chunk=12)
SFT = SFTConfig(buckets=(), chunk=3)
LESSONS = (
    (ZOOM, "<think>x</think><answer>left</answer>"),
    ("<think>x</think><answer>7</answer>",),
    (WINDOW, ZOOM_AGAIN, "<answer>A</answer>"),
)
"""A script for SFT, a row a question."""


def update(state: TrainState, question: Question, key: AnswerKey, temperature: float = 1.0):
    return grpo_step(MODEL, optimizer(), GRPO, environment(), state, question, key, Sampling.at(temperature))


def learn(state: TrainState, question: Question, script: Script):
    return sft_step(MODEL, optimizer(), SFT, environment(), state, question, script)


def loss_extras(trajectory: Trajectory, advantage_B) -> dict:
    """What ``chunk_loss`` wants beside the rows: the same advantage at every turn, tokens averaged over the batch."""
    advantage_BR = jnp.repeat(jnp.asarray(advantage_B)[:, None], TURNS, axis=1)
    weight_B = row_weights("token", trajectory.sampled_BS, TURNS * TURN_TOKENS)
    return {"images": trajectory.features_BILE, "advantage_BR": advantage_BR, "weight_B": weight_B}


@jax.jit
def _policy_loss(params: Params, trajectory: Trajectory, advantage_B, temperature):
    moving, still = split(params, ["^decoder"])
    tokens = jnp.sum(trajectory.sampled_BS).astype(jnp.float32)
    extras = loss_extras(trajectory, advantage_B)
    loss, (sums, maxima) = chunk_loss(MODEL, GRPO, still, temperature, tokens, moving, trajectory, extras)
    return loss, sums | maxima


def policy_loss(trajectory: Trajectory, advantage_B, temperature: float = 1.0):
    """GRPO's loss and metrics of a batch in one chunk."""
    return _policy_loss(params(), trajectory, jnp.asarray(advantage_B), jnp.float32(temperature))


def played(
    script: Script | None = None, question: Question | None = None, seed: int = 1, temperature: float = 1.0
) -> Trajectory:
    """A rollout of group 2; always with a script (of nothing, if need be), so that one compiled program serves all."""
    question = make_question() if question is None else question
    script = make_script([()] * 6) if script is None else script
    key = jax.random.key(seed)
    return play(MODEL, params(), environment(), question, key, 2, Sampling.at(temperature), script)
