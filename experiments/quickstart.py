"""Train `medvista-tiny` to think with medical images, end to end, on real images: perception, SFT, GRPO, table, report.

    python experiments/quickstart.py                        # one seed, at most ten minutes on two CPU cores
    python experiments/quickstart.py --seeds 3              # the table of the README
    python experiments/quickstart.py --teacher.shift 0 --out runs/unshifted
    python experiments/quickstart.py --preset short         # every stage, a few steps each: a smoke test
    python experiments/quickstart.py --resume               # go on after Ctrl-C

Writes OUT/table.json, table.md, report.html, curves.png, metrics.jsonl and, for each seed, OUT/seed_K with the
checkpoints and the policy of every stage and trajectories that `python -m medvista_jax replay OUT/seed_K` plays again.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from medvista_jax.data import controls
from medvista_jax.data.atlas import CONCEPTS
from medvista_jax.data.questions import QuestionPool
from medvista_jax.data.sources import MissingSource
from medvista_jax.data.teachers import TeacherConfig, teach
from medvista_jax.data.views import perception_batch
from medvista_jax.evaluation import tables
from medvista_jax.evaluation.cards import make_cards
from medvista_jax.evaluation.conditions import CONDITIONS, batch_maker
from medvista_jax.evaluation.evaluate import evaluate, needless_calls, rows_by_need
from medvista_jax.evaluation.plots import draw_curves
from medvista_jax.evaluation.replay import play_and_save
from medvista_jax.evaluation.report import write_report
from medvista_jax.evaluation.setting import FAMILY_WEIGHTS, Setting, load_policy, save_policy
from medvista_jax.learning.grpo import GRPOConfig, grpo_step
from medvista_jax.learning.perception import PerceptionConfig, init_head, perception_step
from medvista_jax.learning.sft import SFTConfig, sft_step
from medvista_jax.learning.state import OptimizerConfig, TrainState, start
from medvista_jax.rollout.loop import Script
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.runtime.interrupt import Interrupts
from medvista_jax.runtime.metrics import MetricsLog, read_metrics, truncate
from medvista_jax.runtime.progress import Progress, duration
from medvista_jax.runtime.stages import Interrupted, NotFinite, Stage, fingerprint, run_stage

EXIT_INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class PerceptionStage:
    """The image encoder learns dense labels of the training images, then stays frozen."""

    images: int = 32
    views: int = 4
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-3, steps=300)


@dataclasses.dataclass(frozen=True)
class SFTStage:
    """Scripted trajectories. `without_tools` is the share of prompts that offer none."""

    batch: int = 64
    without_tools: float = 0.15
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-3, steps=250)


@dataclasses.dataclass(frozen=True)
class GRPOStage:
    """Reinforcement learning. `without_tools` is the share of prompts that offer none."""

    prompts: int = 32
    without_tools: float = 0.15
    temperature: float = 1.0
    algorithm: GRPOConfig = GRPOConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, steps=120)


@dataclasses.dataclass(frozen=True)
class Items:
    """Questions of the pools: for training; of the test split for the table; of it for the report."""

    train: int = 6144
    zoom: int = 512
    others: int = 640
    report: int = 36
    at_once: int = 256


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """Every knob. `preset short` runs a few steps of everything; numbers given beside it are overruled by it."""

    preset: Literal["full", "short"] = "full"
    out: Path = Path("runs/quickstart")
    seeds: int = 1
    resume: bool = False
    split: Literal["test", "validation"] = "test"
    setting: Setting = Setting()
    teacher: TeacherConfig = TeacherConfig()
    perception: PerceptionStage = PerceptionStage()
    sft: SFTStage = SFTStage()
    grpo: GRPOStage = GRPOStage()
    items: Items = Items()


def shortened(config: Quickstart) -> Quickstart:
    """The same experiment with a few steps and items."""
    few = lambda stage, steps: dataclasses.replace(  # noqa: E731
        stage, optimizer=dataclasses.replace(stage.optimizer, steps=steps)
    )
    return dataclasses.replace(
        config,
        perception=few(config.perception, 4),
        sft=dataclasses.replace(few(config.sft, 4), batch=16),
        grpo=dataclasses.replace(few(config.grpo, 3), prompts=4),
        items=Items(train=240, zoom=32, others=40, report=36, at_once=36),
    )


def rows_of_step(pool: QuestionPool, seed: int, stage: int, number: int, count: int) -> tuple[np.ndarray, Any]:
    """Questions of one step and the generator behind them: a pure function of seed, stage and step."""
    rng = np.random.default_rng([seed, stage, number])
    return rng.integers(0, len(pool), count), rng


def train_perception(config: Quickstart, seed: int, pool: QuestionPool, run: dict[str, Any]) -> TrainState:
    """Stage 1: encoder and a read-out that is thrown away afterwards."""
    stage, model = config.perception, config.setting.model
    heavy = ("lesion", "marker", "nucleus", "frame")
    weights = [0.1 if c == "nothing" else 4.0 if c.startswith("implanted") or c in heavy else 0.5 for c in CONCEPTS]
    static = PerceptionConfig(concepts=len(CONCEPTS), weights=tuple(weights))
    optimizer = stage.optimizer.build()
    key_model, key_head, key_run = jax.random.split(jax.random.key(seed), 3)
    params = {**model.init(key_model), "head": init_head(model, static, key_head)}

    def batch(number: int):
        rows, rng = rows_of_step(pool, seed, 1, number, stage.images)
        return perception_batch(pool, rows, stage.views, rng)

    return run_stage(
        Stage(
            name="perception",
            steps=stage.optimizer.steps,
            identity=fingerprint([seed, stage, static, config.items.train, config.setting]),
            step=partial(perception_step, model, optimizer, static),
            batch=batch,
            shown=("loss", "accuracy_named"),
        ),
        start(params, ("^vision", "^head"), optimizer, key_run),
        **run,
    )


def train_sft(
    config: Quickstart, seed: int, pool: QuestionPool, before: TrainState, tools: bool, run: dict[str, Any]
) -> TrainState:
    """Stage 2: connector and decoder learn the teacher's trajectories, or direct answers when `tools` is off."""
    stage, setting = config.sft, config.setting
    static = SFTConfig(length=176, images=setting.turns) if tools else SFTConfig(length=64, images=1)
    optimizer = stage.optimizer.build()
    params = {name: part for name, part in before.params().items() if name != "head"}

    def batch(number: int):
        rows, rng = rows_of_step(pool, seed, 2, number, stage.batch)
        offered = (rng.random(stage.batch) >= stage.without_tools) & tools
        question, _ = pool.batch(rows, offered)
        texts = [
            teach(pool.items[row], rng, config.teacher, bool(on), setting.turns)
            for row, on in zip(rows, offered, strict=True)
        ]
        pair = controls.encode_script(texts, setting.tokenizer, setting.turns, setting.turn_tokens)
        return question, Script(*pair)

    return run_stage(
        Stage(
            name="sft" if tools else "no_tools",
            steps=stage.optimizer.steps,
            identity=fingerprint([run["parent"], stage, static, config.teacher, tools]),
            step=lambda state, batch: sft_step(setting.model, optimizer, static, setting.environment, state, *batch),
            batch=batch,
        ),
        start(params, ("^connector", "^decoder"), optimizer, jax.random.key(seed + 1)),
        **{name: value for name, value in run.items() if name != "parent"},
    )
