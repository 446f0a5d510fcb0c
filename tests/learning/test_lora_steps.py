"""Only adapters learn, in the same compiled steps as everything else."""

from __future__ import annotations

import re

import jax
import numpy as np

from medvista_jax.learning.grpo import grpo_step
from medvista_jax.learning.sft import sft_step
from medvista_jax.learning.state import start
from medvista_jax.models.lora import TRAINABLE, LoRAConfig, init_lora, with_lora
from medvista_jax.models.names import flatten
from medvista_jax.rollout.sampling import Sampling
from tests import tiny
from tests.models.lora_cases import MODELS, base_params


def begin(name: str, config: LoRAConfig):
    model = with_lora(MODELS[name], config)
    params = init_lora(model, base_params(name), jax.random.key(1))
    return model, start(params, (TRAINABLE,), tiny.optimizer(), jax.random.key(2))


def check_halves(name: str, before: dict[str, np.ndarray], state) -> None:
    """The frozen half is the base, bit for bit; every adapter has moved."""
    base = flatten(base_params(name))
    assert set(state.frozen) == set(base) and all(tiny.same_bits(state.frozen[path], base[path]) for path in base)
    assert before and all(re.search(TRAINABLE, path) for path in before)
    assert [path for path in before if np.array_equal(before[path], state.trainable[path])] == []


def test_sft_trains_adapters_at_both_ends():
    model, state = begin("qwen3_vl", LoRAConfig(4, 8.0, r"(vision|decoder)/.*"))
    before = jax.tree.map(np.asarray, state.trainable)
    question, script = tiny.make_question(), tiny.make_script(tiny.LESSONS)
    losses = []
    for _ in range(30):
        state, metrics = sft_step(model, tiny.optimizer(), tiny.SFT, tiny.environment(), state, question, script)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.7 * losses[0] and losses[4] < losses[0]
    check_halves("qwen3_vl", before, state)


def test_grpo_trains_adapters():
    model, state = begin("medvista_tiny", LoRAConfig(4, 16.0))
    before = jax.tree.map(np.asarray, state.trainable)
    question, key = tiny.make_question(max_turns=1), tiny.make_key()
    for _ in range(3):
        state, metrics = grpo_step(
            model, tiny.optimizer(), tiny.GRPO, tiny.environment(), state, question, key, Sampling.at(1.0)
        )
        assert float(metrics["logprob_mismatch_max"]) <= 1e-4  # promise 2: rollout and loss read the same adapters
        assert float(metrics["grad_norm"]) > 0
    check_halves("medvista_tiny", before, state)
    assert float(metrics["entropy"]) > 0
