"""The programs of a plan as shapes: prefill, rollout and the GRPO step, ready to be lowered. Nothing is allocated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medvista_jax.core.types import AnswerKey, ImageBank, Question, Trajectory
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.gym import Environment
from medvista_jax.learning.grpo import GRPOConfig, grpo_step, grpo_update
from medvista_jax.learning.placement import policy_params, policy_specifications, row_shardings, state_shardings
from medvista_jax.learning.state import OptimizerConfig, TrainState, join, start
from medvista_jax.models.families import family_of, read_config
from medvista_jax.models.names import flatten
from medvista_jax.rollout.loop import prefill, rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.aot.plans import MODELS, Plan
from medvista_jax.text.tokenizer import SentencePieceTokenizer
from medvista_jax.tools.registry import DEFAULT_TOOLS

TOKEN_BYTES = 128
"""Bytes of the longest token of Qwen's vocabulary."""
ORIGINALS = 1
PROMPT_TEXT = 512
"""Slots of a prompt beside its image, at least."""
LANES = 128


@dataclasses.dataclass(frozen=True)
class Program:
    """A function with the shapes and layouts of its arguments.

    Attributes:
      run: what is compiled; closes over the static arguments.
      arguments: trees of ``jax.ShapeDtypeStruct`` with shardings.
      donated: indices of arguments whose memory the results may take.
    """

    name: str
    run: Callable[..., Any]
    arguments: tuple[Any, ...]
    donated: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Setting:
    """All that the programs of a plan share."""

    plan: Plan
    mesh: Mesh
    model: Any
    environment: Environment
    prompt_slots: int

    @property
    def rows(self) -> int:
        return self.plan.prompts * self.plan.group


def setting_of(plan: Plan, mesh: Mesh) -> Setting:
    """The model, and an environment whose turns fill the plan's context.

    Raises:
      ValueError: the context is too short for the crops, or a size does not divide.
      BadCheckpoint: a folder whose ``config.json`` is not understood.
    """
    if plan.context % LANES:
        raise ValueError(f"context {plan.context} must be a multiple of {LANES}")
    model = MODELS[plan.model]() if plan.model in MODELS else _from_folder(plan.model)
    turns = plan.crops + 1
    build = lambda tokens: build_environment(  # noqa: E731
        SentencePieceTokenizer(), list(DEFAULT_TOOLS.values()), model.tokens_per_image, model.image_size, turns, tokens
    )
    width = build(1).observation_slots
    prompt = ORIGINALS * model.tokens_per_image + PROMPT_TEXT
    free = plan.context - prompt - plan.crops * width
    if free < 16 * turns:
        raise ValueError(
            f"{plan.crops} crops of {width} slots and a prompt of {prompt} leave {free} of {plan.context} slots for "
            f"{turns} turns; a longer context or fewer crops are needed"
        )
    environment = _of_vocabulary(build(free // turns), model.vocab_size)
    return Setting(plan, mesh, model, environment, prompt + free % turns)


def _from_folder(folder: str) -> Any:
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"model {folder!r} is unknown; there are {', '.join(MODELS)}, or name a folder with config.json"
        )
    family, _ = family_of(folder)
    return family.model_class()(read_config(family, folder), dtype="bfloat16")


def _of_vocabulary(environment: Environment, size: int) -> Environment:
    """The environment with tables of another vocabulary's shape; their values are no part of a program."""
    table, length = environment.token_bytes
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.asarray(x).dtype), environment)
    states = environment.stops.table.shape[0]
    return shapes.replace(
        token_bytes=(
            jax.ShapeDtypeStruct((size, TOKEN_BYTES), table.dtype),
            jax.ShapeDtypeStruct((size,), length.dtype),
        ),
        stops=shapes.stops._replace(table=jax.ShapeDtypeStruct((states, size), environment.stops.table.dtype)),
    )


def questions(setting: Setting) -> Question:
    """Shapes of the prompts."""
    plan, count = setting.plan, setting.plan.prompts
    bank = ImageBank.of(
        np.empty((count, ORIGINALS, plan.canvas, plan.canvas, 1), np.uint16),
        np.empty((count, ORIGINALS, 2), np.float32),
    )
    tokens, budget = np.empty((count, setting.prompt_slots), np.int32), np.empty(count, np.int32)
    return Question(tokens, tokens > 0, tokens, bank, budget, budget, budget)


def state_shapes(setting: Setting, optimizer: optax.GradientTransformation) -> TrainState:
    """Masters and moments in float32: the decoder learns, tower and connector lie still in the model's dtype."""
    params = setting.model.abstract_params(jnp.float32)
    begin = lambda params, key: start(params, ("^decoder",), optimizer, key)  # noqa: E731
    state = jax.eval_shape(begin, params, jax.random.key(0))
    still = {path: jax.ShapeDtypeStruct(leaf.shape, setting.model.dtype) for path, leaf in state.frozen.items()}
    return state.replace(frozen=still)


def programs(setting: Setting) -> list[Program]:
    """Prefill, rollout, the update from its trajectories, and the whole GRPO step of a plan."""
    plan, model, mesh = setting.plan, setting.model, setting.mesh
    whole = NamedSharding(mesh, PartitionSpec())
    place = lambda tree: jax.tree.map(lambda x: _shape(x, whole), tree)  # noqa: E731
    optimizer = OptimizerConfig().build()
    state = state_shapes(setting, optimizer)
    state = jax.tree.map(_shape, state, state_shardings(model, state, mesh))
    environment, key = place(setting.environment), place(jax.eval_shape(lambda: jax.random.key(0)))
    count = plan.prompts
    answers = AnswerKey(np.empty((count, 64), np.uint8), np.empty((count, 4), np.float32), np.empty(count, np.int32))
    rows = (questions(setting), answers)
    question, answers = jax.tree.map(_shape, rows, row_shardings(rows, mesh))
    sampling = place(jax.eval_shape(lambda: Sampling.at(1.0)))
    serving = serving_params(setting, state)
    config = GRPOConfig(group=plan.group, buckets=(), chunk=plan.chunk, remat=plan.remat, scan_layers=True)

    def first(params, environment, question):
        return prefill(model, params, environment, question, plan.group)

    def play(params, environment, question, key, sampling):
        return rollout(model, params, environment, question, key, plan.group, sampling)

    def update(environment, state, trajectory, answers, sampling):
        return grpo_update(model, optimizer, config, environment, state, trajectory, answers, sampling)

    def step(environment, state, question, answers, sampling):
        return grpo_step(model, optimizer, config, environment, state, question, answers, sampling)

    trajectory = jax.eval_shape(play, serving, environment, question, key, sampling)
    trajectory = jax.tree.map(_shape, trajectory, trajectory_shardings(trajectory, mesh))
    return [
        Program("prefill", first, (serving, environment, question)),
        Program("rollout", play, (serving, environment, question, key, sampling)),
        Program("update", update, (environment, state, trajectory, answers, sampling), donated=(1,)),
        Program("step", step, (environment, state, question, answers, sampling), donated=(1,)),
    ]


def trajectory_shardings(trajectory: Trajectory, mesh: Mesh) -> Trajectory:
    """Where a rollout leaves its trajectories: by rows, image features by width too."""
    spread = row_shardings(trajectory, mesh)

    def wide(leaf: Any, sharding: NamedSharding) -> NamedSharding:
        if leaf.shape[-1] % mesh.shape["tensor"]:
            return sharding
        rows = (*sharding.spec, *(None,) * (leaf.ndim - 1 - len(sharding.spec)))
        return NamedSharding(mesh, PartitionSpec(*rows, "tensor"))

    features = jax.tree.map(wide, trajectory.features_BILE, spread.features_BILE)
    return spread.replace(features_BILE=features)


def serving_params(setting: Setting, state: TrainState) -> Any:
    """Shapes of :func:`policy_params`, laid out as a rollout reads them."""
    flat = jax.eval_shape(lambda state: flatten(policy_params(setting.model, state)), state)
    where = policy_specifications(setting.model, flat, setting.mesh)
    return join({path: _shape(leaf, NamedSharding(setting.mesh, where[path])) for path, leaf in flat.items()}, {})


def _shape(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        jnp.shape(leaf), leaf.dtype if hasattr(leaf, "dtype") else jnp.asarray(leaf).dtype, sharding=sharding
    )
