"""google-tunix: its sampler, its policy update and its whole GRPO step. A child of experiments/bench_step.py.

It runs in a virtual environment that has tunix and not medvista_jax. Settings are those that tunix is fastest with: no
KL term (so no pass of a reference model), one micro batch, top_p = 1 (no sort), key-value caches of exactly the slots
that are used, prompts handed over as ids. No token ends a completion: all have their full length, which is checked.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.qwen3.model import ModelConfig, Qwen3
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout.base_rollout import RolloutConfig
from wire import serve


class Ids:
    """A tokenizer whose text is ids with spaces between them."""

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return 1

    def eos_id(self) -> int:
        return self.vocab  # never sampled

    def pad_id(self) -> int:
        return 0


class Sampled:
    """Samplers of exact sizes over the same weights."""

    def __init__(self, model: Qwen3, tokenizer: Ids) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.samplers: dict[int, Sampler] = {}

    def __call__(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        c, slots = self.model.config, len(prompts[0]) + tokens
        if slots not in self.samplers:
            cache = CacheConfig(slots, c.num_layers, c.num_kv_heads, c.head_dim)
            self.samplers[slots] = Sampler(self.model, self.tokenizer, cache)
        output = self.samplers[slots](
            [self.tokenizer.decode(prompt) for prompt in prompts],
            max_generation_steps=tokens,
            max_prompt_length=len(prompts[0]),
            temperature=1.0,
            top_p=1.0,
            seed=0,
        )
        said = [ids.tolist() for ids in output.tokens]
        if any(len(ids) != tokens for ids in said):
            raise AssertionError(f"{sorted({len(ids) for ids in said})} tokens where {tokens} were asked for")
        return said


class Session:
    """Model, samplers and, once asked for, the learner."""

    def __init__(self, model: dict[str, int], prompts: list[list[int]], group: int, tokens: int) -> None:
        config = ModelConfig(**model, rope_theta=10_000, norm_eps=1e-6, use_tied_embedding=True)
        self.model, self.tokenizer = Qwen3(config, rngs=nnx.Rngs(0)), Ids(config.vocab_size)
        self.sample = Sampled(self.model, self.tokenizer)
        self.prompts, self.group, self.tokens = prompts, group, tokens
        self.learner: GRPOLearner | None = None
        self.lengths: list[int] = []

    @property
    def rows(self) -> list[list[int]]:
        return [prompt for prompt in self.prompts for _ in range(self.group)]

    def parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.model, nnx.Param)))

    def turns(self, turns: int, observation: list[int]) -> int:
        """Each turn feeds the conversation again, with what was said and heard."""
        talks, sampled = self.rows, 0
        for _ in range(turns):
            said = self.sample(talks, self.tokens)
            sampled += sum(map(len, said))
            talks = [talk + more + observation for talk, more in zip(talks, said, strict=True)]
        return sampled

    def reward(self, prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        """The share of ids in the lower half."""
        ids = [np.array(self.tokenizer.encode(text)) for text in completions]
        self.lengths = [len(row) for row in ids]
        return [float((row < self.tokenizer.vocab // 2).mean()) for row in ids]

    def step(self) -> int:
        if self.learner is None:
            self.learner = self.learn()
        self.learner.train([{"prompts": np.array([self.tokenizer.decode(prompt) for prompt in self.prompts])}])
        jax.block_until_ready(nnx.state(self.learner.rl_cluster.actor_trainer.model))
        if set(self.lengths) != {self.tokens}:
            raise AssertionError(f"completions of {sorted(set(self.lengths))} tokens")
        return sum(self.lengths)

    def learn(self) -> GRPOLearner:
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
        rollout = RolloutConfig(
            max_tokens_to_generate=self.tokens,
            max_prompt_length=len(self.prompts[0]),
            kv_cache_size=len(self.prompts[0]) + self.tokens,
            temperature=1.0,
            top_p=1.0,
            top_k=None,
        )
        training = RLTrainingConfig(
            actor_optimizer=optax.adamw(1e-5),
            eval_every_n_steps=10**9,
            max_steps=10**9,
            mini_batch_size=len(self.prompts),
            train_micro_batch_size=len(self.prompts),
        )
        cluster = RLCluster(
            actor=self.model,
            tokenizer=self.tokenizer,
            cluster_config=ClusterConfig(
                role_to_mesh={Role.ACTOR: mesh, Role.ROLLOUT: mesh, Role.REFERENCE: mesh},
                training_config=training,
                rollout_config=rollout,
            ),
        )
        cluster.close = lambda: None  # `train` would close it after its only batch
        return GRPOLearner(
            cluster, GRPOConfig(num_generations=self.group, num_iterations=1, beta=0.0), reward_fns=self.reward
        )


def main() -> None:
    state: dict[str, Session] = {}

    def load(**settings: Any) -> int:
        state["session"] = Session(**settings)
        return state["session"].parameters()

    serve(
        {
            "load": load,
            "turns": lambda **settings: state["session"].turns(**settings),
            "step": lambda: state["session"].step(),
        }
    )


if __name__ == "__main__":
    main()
