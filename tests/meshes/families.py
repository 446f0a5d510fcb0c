"""A tiny instance of every family over one vocabulary, and one setting to play and learn in."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import AnswerKey, ImageBank, Params, Question
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.gym import Environment
from medvista_jax.models.blocks import DecoderConfig
from medvista_jax.models.internvl import InternVL
from medvista_jax.models.internvl.modeling import InternVLConfig
from medvista_jax.models.internvl.modeling import VisionConfig as InternVision
from medvista_jax.models.medvista_smol import MedVistaSmol
from medvista_jax.models.medvista_smol.modeling import MedVistaSmolConfig
from medvista_jax.models.medvista_smol.modeling import VisionConfig as SmolVision
from medvista_jax.models.medvista_tiny import MedVistaTiny
from medvista_jax.models.medvista_tiny.modeling import MedVistaTinyConfig
from medvista_jax.models.qwen2_5_vl import Qwen25VL
from medvista_jax.models.qwen2_5_vl.modeling import Qwen25VLConfig
from medvista_jax.models.qwen2_5_vl.modeling import VisionConfig as Qwen25Vision
from medvista_jax.models.qwen3_vl import Qwen3VL
from medvista_jax.models.qwen3_vl.modeling import Qwen3VLConfig
from medvista_jax.models.qwen3_vl.modeling import VisionConfig as Qwen3Vision
from medvista_jax.rollout.loop import Script
from medvista_jax.text.chat import render_prompt
from medvista_jax.text.tokenizer import SentencePieceTokenizer
from medvista_jax.tools.zoom_in import zoom_in

TOKENIZER = SentencePieceTokenizer()
VOCAB = TOKENIZER.vocab_size
PROMPTS, GROUP, TURNS, TURN_TOKENS = 8, 2, 2, 40
ZOOM = '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [100, 200, 600, 900]}}</tool_call>'


def _decoder(**more: Any) -> DecoderConfig:
    sizes = {"width": 32, "layers": 1, "heads": 8, "kv_heads": 8, "head_dim": 8, "feed_forward": 64}
    return DecoderConfig(VOCAB, **(sizes | more))


FAMILIES = {
    "medvista_tiny": MedVistaTiny(
        MedVistaTinyConfig(vocab_size=VOCAB, image=16, patch=4, vision_width=16, vision_heads=2, decoder=_decoder())
    ),
    "medvista_smol": MedVistaSmol(
        MedVistaSmolConfig(_decoder(), 3, SmolVision(32, 1, 2, 64, patch=4, grid=4), connector_width=32),
        image_size=(16, 16),
    ),
    "qwen3_vl": Qwen3VL(
        Qwen3VLConfig(
            Qwen3Vision(32, 1, 2, 64, out_width=32, patch=4, grid=4, deepstack=(0,)),
            _decoder(kv_heads=2, qk_norm=True, mrope_section=(2, 1, 1), mrope_interleaved=True, tied=False),
            image_token=3,
        ),
        image_size=(16, 16),
    ),
    "qwen2_5_vl": Qwen25VL(
        Qwen25VLConfig(
            Qwen25Vision(32, 1, 2, 64, out_width=32, patch=4, window=8, full_attention=()),
            _decoder(qkv_bias=True, mrope_section=(2, 1, 1)),
            image_token=3,
        ),
        image_size=(16, 16),
    ),
    "internvl": InternVL(
        InternVLConfig(InternVision(32, 1, 2, 64, image_size=(16, 16), patch=(4, 4)), _decoder(heads=4, kv_heads=4), 3),
        image_size=(16, 16),
    ),
}


def draw(model: Any, seed: int = 0) -> Params:
    """Random parameters of unit gain, norms and biases perturbed; by numpy, since compiling ``init`` takes longer."""
    rng = np.random.default_rng(seed)

    def leaf(path: Any, like: Any) -> jax.Array:
        name = path[-1].key
        spread = {"kernel": like.shape[0] ** -0.5, "embedding": 32**-0.5, "head": 32**-0.5}.get(name, 0.0)
        value = (name == "scale") + np.hypot(spread, 0.1) * rng.standard_normal(like.shape)
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(model.init, jax.random.key(seed)))


def environment_of(model: Any) -> Environment:
    return build_environment(TOKENIZER, [zoom_in], model.tokens_per_image, model.image_size, TURNS, TURN_TOKENS)


def ask(model: Any) -> tuple[Question, AnswerKey, Script]:
    """Prompts of several lengths over noise; the first row of each group zooms, the others say what they like."""
    rng = np.random.default_rng(0)
    prompts = [
        render_prompt(TOKENIZER, "Which? " + "A or B " * (i % 3), [model.tokens_per_image], [zoom_in.spec])
        for i in range(PROMPTS)
    ]
    slots = max(len(prompt.tokens) for prompt in prompts)
    tokens = np.full((PROMPTS, slots), TOKENIZER.pad_id, np.int32)
    feature, valid = np.full(tokens.shape, -1, np.int32), np.zeros(tokens.shape, bool)
    for row, prompt in enumerate(prompts):
        size = len(prompt.tokens)
        tokens[row, :size], feature[row, :size], valid[row, :size] = prompt.tokens, prompt.feature, True
    pixels = rng.integers(0, 60_000, (PROMPTS, 1, 24, 30, 1)).astype(np.uint16)
    bank = ImageBank.of(pixels, np.tile(np.array([100.0, 50_000.0], np.float32), (PROMPTS, 1, 1)))
    budget = np.full(PROMPTS, TURNS, np.int32)
    answer = np.zeros((PROMPTS, 8), np.uint8)
    answer[:, 0] = ord("a")
    key = AnswerKey(answer, np.zeros((PROMPTS, 4), np.float32), np.zeros(PROMPTS, np.int32))
    ids = TOKENIZER.encode(ZOOM)
    said = np.full((PROMPTS * GROUP, TURNS, TURN_TOKENS), TOKENIZER.pad_id, np.int32)
    length = np.zeros((PROMPTS * GROUP, TURNS), np.int32)
    said[::GROUP, 0, : len(ids)], length[::GROUP, 0] = ids, len(ids)
    return Question(tokens, valid, feature, bank, budget, budget, budget), key, Script(said, length)
