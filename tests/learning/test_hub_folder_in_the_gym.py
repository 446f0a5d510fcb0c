"""From a hub folder to an updated policy and back: weights, tokenizer, chat template, questions, tools, GRPO, save."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from medvista_jax import models
from medvista_jax.data.item import AtlasItem
from medvista_jax.data.questions import QuestionPool
from medvista_jax.environment.build import build_environment
from medvista_jax.learning.grpo import GRPOConfig, grpo_step
from medvista_jax.learning.state import start
from medvista_jax.rollout.loop import Script, rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.text.hub_chat import load_chat
from medvista_jax.tools.registry import DEFAULT_TOOLS
from tests.checkpoints import TINY, tensors_of
from tests.text import hub_folders

ZOOM = '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [100, 200, 600, 900]}}</tool_call>'
FAMILIES = {
    "qwen3_vl": ("qwen3", hub_folders.QWEN3_VL, (16, 16)),
    "qwen2_5_vl": ("qwen2.5", hub_folders.QWEN2_5_VL, (16, 16)),
    "internvl": ("internvl", hub_folders.INTERNVL3, (16, 16)),
}
TURNS, TURN_TOKENS = 2, 96


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    """A hub-layout folder: a random small model under a vocabulary of Qwen's kind."""
    folder = tmp_path_factory.mktemp("gym") / request.param
    kind, template, _ = FAMILIES[request.param]
    hub_folders.write_folder(folder, kind, jinja=template)
    ids = load_chat(folder).tokenizer.special
    symbol = ids["<IMG_CONTEXT>"] if kind == "internvl" else ids["<|image_pad|>"]
    config = TINY[request.param] | {"image_token_id": symbol, "dtype": "float32"}
    config["text_config"] = config["text_config"] | {"vocab_size": 640, "dtype": "float32"}
    hub_folders.write_folder(folder, kind, jinja=template, **config)
    tensors = tensors_of(folder)
    save_file({name: 0.2 * value for name, value in tensors.items()}, folder / "model.safetensors")
    return folder


def make_items() -> list[AtlasItem]:
    rng = np.random.default_rng(0)
    return [
        AtlasItem(
            id=f"test/side/{number:06d}",
            family="side",
            needs="none",
            modality="mr",
            source="none",
            pixels=rng.integers(0, 255, (24, 24, 1)).astype(np.uint16),
            window=(0.0, 255.0),
            question=f"On which side is it, {number}?",
            options=("left", "right"),
            answer="left",
            targets=(),
            good_window=None,
            concepts=np.zeros((24, 24), np.uint8),
        )
        for number in range(2)
    ]


def test_from_folder_to_folder(folder, tmp_path):
    size = FAMILIES[folder.name][2]
    model, params = models.load(folder, dtype=jnp.float32, image_size=size)
    chat, tools = load_chat(folder), list(DEFAULT_TOOLS.values())
    environment = build_environment(
        chat.tokenizer, tools, model.tokens_per_image, size, TURNS, TURN_TOKENS, style=chat.frame
    )
    pool = QuestionPool(make_items(), ["side"], chat, tools, model.tokens_per_image, 1100, TURNS)
    question, key = jax.tree.map(jnp.asarray, pool.batch(np.arange(2)))
    assert model.vocab_size == chat.tokenizer.vocab_size == 640

    # A scripted call is understood, answered with an image, and the model reads on: rollout and loss agree.
    call = chat.tokenizer.encode(ZOOM)
    script = Script(
        jnp.zeros((2, TURNS, TURN_TOKENS), jnp.int32).at[:, 0, : len(call)].set(jnp.asarray(call)),
        jnp.full((2, TURNS), 0, jnp.int32).at[:, 0].set(len(call)),
    )
    play = jax.jit(rollout, static_argnames=("model", "group"))
    t = play(model, params, environment, question, jax.random.key(0), 1, Sampling.at(1.0), script)
    assert np.asarray(t.views.count_B).tolist() == [2, 2] and not np.asarray(t.turns.fault_BR)[:, 0].any()
    said = chat.tokenizer.decode(np.asarray(t.tokens_BS[0])[np.asarray(t.valid_BS[0])])
    assert ZOOM in said and "On which side is it, 0?" in said and said.count("zoom_in") >= 2
    shown_BS = np.asarray(t.feature_BS) >= 0
    assert (shown_BS.sum(1) == 2 * model.tokens_per_image).all()  # the question's image and the view
    assert set(np.asarray(t.tokens_BS)[shown_BS]) == {model.config.image_token}

    optimizer = optax.adam(1e-3)
    state = start(params, ("^decoder",), optimizer, jax.random.key(0))
    config = GRPOConfig(group=2, buckets=(), chunk=4)
    state, metrics = grpo_step(model, optimizer, config, environment, state, question, key, Sampling.at(1.0))
    assert float(metrics["logprob_mismatch_max"]) <= 1e-4 and np.isfinite(float(metrics["loss"]))

    models.save(model, state.params(), tmp_path / "out")
    again, restored = models.load(tmp_path / "out", image_size=size)
    assert again == dataclasses.replace(model, source=None)
    assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, restored, state.params())))
    assert load_chat(tmp_path / "out").prompt("A?", [2]) == chat.prompt("A?", [2])
