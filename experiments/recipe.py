"""The stages that train `medvista-tiny` on the packaged atlas, as ``quickstart.py`` and the ``table_*.py`` run them.

Each takes the parameters before it and gives a :class:`TrainState`; what decides its result is in its arguments.
"""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import numpy as np
import optax

from medvista_jax.core.types import Params
from medvista_jax.data import controls
from medvista_jax.data.concepts import CONCEPTS, OBJECTS
from medvista_jax.data.questions import QuestionPool
from medvista_jax.data.teachers import TeacherConfig, teach
from medvista_jax.data.views import perception_batch
from medvista_jax.evaluation.setting import Setting
from medvista_jax.learning.grpo import GRPOConfig, grpo_step
from medvista_jax.learning.perception import PerceptionConfig, init_head, perception_step
from medvista_jax.learning.sft import SFTConfig, sft_step
from medvista_jax.learning.state import OptimizerConfig, TrainState, start
from medvista_jax.rollout.loop import Script
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.stages import Stage, run_stage


@dataclasses.dataclass(frozen=True)
class PerceptionStage:
    """The image encoder learns dense labels of the training images, then stays frozen."""

    images: int = 40
    views: int = 2
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=4e-3, steps=700)


@dataclasses.dataclass(frozen=True)
class SFTStage:
    """Scripted trajectories. `without_tools` is the share of prompts that offer none; `direct_steps` are those of the
    policy trained without tools, whose turns are a third as long."""

    batch: int = 32
    without_tools: float = 0.15
    direct_steps: int = 500
    static: SFTConfig = SFTConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-3, steps=1200)


@dataclasses.dataclass(frozen=True)
class GRPOStage:
    """Reinforcement learning. `without_tools` is the share of prompts that offer none."""

    prompts: int = 16
    without_tools: float = 0.15
    temperature: float = 1.0
    algorithm: GRPOConfig = GRPOConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, steps=150)


@cache
def optimizer_of(config: OptimizerConfig) -> optax.GradientTransformation:
    """One object for equal settings: to a compiled step another optimizer is another program, of every seed anew."""
    return config.build()


def with_steps(stage: Any, steps: int) -> Any:
    """The same stage with another number of steps."""
    return dataclasses.replace(stage, optimizer=dataclasses.replace(stage.optimizer, steps=steps))


def rows_of_step(pool: QuestionPool, seed: int, stage: int, number: int, count: int) -> tuple[np.ndarray, Any]:
    """Questions of one step and the generator behind them: a pure function of seed, stage and step."""
    rng = np.random.default_rng([seed, stage, number])
    return rng.integers(0, len(pool), count), rng


def perception_config() -> PerceptionConfig:
    """The loss of the perception stage for the atlas' concepts."""
    weights = [0.1 if c == "nothing" else 4.0 if c in OBJECTS else 0.5 for c in CONCEPTS]
    kinds = [len(CONCEPTS) if c.startswith("implanted") else index for index, c in enumerate(CONCEPTS)]
    return PerceptionConfig(concepts=len(CONCEPTS), weights=tuple(weights), kinds=tuple(kinds))


def train_perception(
    setting: Setting, stage: PerceptionStage, pool: QuestionPool, seed: int, *, identity: str, run: dict[str, Any]
) -> TrainState:
    """Stage 1: encoder and a read-out, ``head``, that is thrown away afterwards.

    Args:
      identity: :func:`medvista_jax.runtime.stages.fingerprint` of all that decides the result.
      run: of :func:`medvista_jax.runtime.stages.run_stage`: folder, progress, metrics, interrupts, resume.
    """
    model, static, optimizer = setting.model, perception_config(), optimizer_of(stage.optimizer)
    key_model, key_head, key_run = jax.random.split(jax.random.key(seed), 3)
    params = {**model.init(key_model), "head": init_head(model, static, key_head)}

    def batch(number: int):
        rows, rng = rows_of_step(pool, seed, 1, number, stage.images)
        return perception_batch(pool, rows, stage.views, rng)

    return run_stage(
        Stage(
            name="perception",
            steps=stage.optimizer.steps,
            identity=identity,
            step=partial(perception_step, model, optimizer, static),
            batch=batch,
            shown=("loss", "names_right"),
        ),
        start(params, ("^vision", "^head"), optimizer, key_run),
        **run,
    )


def train_sft(
    setting: Setting,
    stage: SFTStage,
    teacher: TeacherConfig,
    pool: QuestionPool,
    before: Params,
    seed: int,
    tools: bool,
    *,
    identity: str,
    run: dict[str, Any],
) -> TrainState:
    """Stage 2: connector and decoder learn the teacher's trajectories, or direct answers when ``tools`` is off."""
    static = stage.static
    steps = stage.optimizer.steps if tools else stage.direct_steps
    optimizer = optimizer_of(dataclasses.replace(stage.optimizer, steps=steps))
    params = {name: part for name, part in before.items() if name != "head"}
    names = tuple(tool.name for tool in setting.tools)

    def batch(number: int):
        rows, rng = rows_of_step(pool, seed, 2, number, stage.batch)
        offered = (rng.random(stage.batch) >= stage.without_tools) & tools
        question, _ = pool.batch(rows, offered)
        texts = [
            teach(pool.items[row], rng, teacher, names if on else False, setting.turns)
            for row, on in zip(rows, offered, strict=True)
        ]
        pair = controls.encode_script(texts, setting.tokenizer, setting.turns, setting.turn_tokens)
        return question, Script(*pair)

    return run_stage(
        Stage(
            name="sft" if tools else "no_tools",
            steps=steps,
            identity=identity,
            step=lambda state, batch: sft_step(setting.model, optimizer, static, setting.environment, state, *batch),
            batch=batch,
        ),
        start(params, ("^connector", "^decoder"), optimizer, jax.random.key(seed + 1)),
        **run,
    )


def train_grpo(
    setting: Setting,
    stage: GRPOStage,
    pool: QuestionPool,
    before: Params,
    seed: int,
    tools: bool = True,
    *,
    identity: str,
    run: dict[str, Any],
) -> TrainState:
    """Stage 3: the decoder learns from its own episodes; what makes image features is frozen.

    Args:
      tools: off: no prompt offers any.
    """
    optimizer = optimizer_of(stage.optimizer)

    def batch(number: int):
        rows, rng = rows_of_step(pool, seed, 3, number, stage.prompts)
        return pool.batch(rows, (rng.random(stage.prompts) >= stage.without_tools) & tools)

    def step(state: TrainState, batch):
        sampling = Sampling.at(stage.temperature)
        return grpo_step(setting.model, optimizer, stage.algorithm, setting.environment, state, *batch, sampling)

    return run_stage(
        Stage(
            name="grpo",
            steps=stage.optimizer.steps,
            identity=identity,
            step=step,
            batch=batch,
            shown=("reward", "accuracy", "calls_per_question"),
            save_every=25,
        ),
        start(before, ("^decoder",), optimizer, jax.random.key(seed + 2)),
        **run,
    )
