"""What ``smol_grpo.py`` is set up with: every knob, the model with its adapters, the environment and the questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax

from medvista_jax import models
from medvista_jax.core.types import Params
from medvista_jax.data.atlas import Atlas
from medvista_jax.data.implants import STRIPES
from medvista_jax.data.questions import QuestionPool
from medvista_jax.data.spots import FAMILY, SpotTeacher, look_turn
from medvista_jax.data.teachers import answer_turn
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.gym import Environment
from medvista_jax.learning.accumulate import Bucket
from medvista_jax.learning.state import FlatParams, OptimizerConfig, TrainState, join
from medvista_jax.models.lora import LoRAConfig, init_lora, with_lora
from medvista_jax.models.medvista_smol import MedVistaSmol
from medvista_jax.runtime.interrupt import Interrupts
from medvista_jax.runtime.metrics import MetricsLog
from medvista_jax.runtime.profile import Profile
from medvista_jax.runtime.progress import Progress
from medvista_jax.runtime.stages import Stage, run_stage
from medvista_jax.text.chat import CompactChat
from medvista_jax.text.hub_chat import load_tokenizer
from medvista_jax.text.tokenizer import HubTokenizer
from medvista_jax.tools.look import MOST, look

TURNS = 2
"""A look and an answer."""


@dataclasses.dataclass(frozen=True)
class WordsStage:
    """The connector learns to name the stripes of an enlarged target. ``images``: training items, two views of each."""

    images: int = 800
    batch: int = 64
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, steps=600, weight_decay=0.03)


@dataclasses.dataclass(frozen=True)
class SFTStage:
    """Adapters and connector learn the teacher's turns. ``without_tools``: share of prompts that offer none."""

    batch: int = 16
    chunk: int = 4
    without_tools: float = 0.15
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, steps=100, warmup=0.05)


@dataclasses.dataclass(frozen=True)
class GRPOStage:
    """The adapters learn from their own episodes. ``every``: steps between two looks at the held-out items."""

    prompts: int = 6
    group: int = 8
    chunk: int = 4
    temperature: float = 1.0
    every: int = 10
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1.5e-4, steps=40, warmup=0.05)


@dataclasses.dataclass(frozen=True)
class Items:
    """Questions. ``held_out``: of the table; a point of the curve asks the first ``curve`` of them, the report has the
    first ``report``. ``at_once``: rows of an evaluation."""

    train: int = 1200
    held_out: int = 240
    curve: int = 96
    report: int = 12
    at_once: int = 48


@dataclasses.dataclass(frozen=True)
class SmolGRPO:
    """Every knob. ``view``: pixels a side of what the tower reads, which cost (view / 28)² tokens.

    `preset short` runs a few steps of everything; numbers given beside it are overruled by it. `profile` traces two
    steps of GRPO into OUT/profile.
    """

    preset: Literal["full", "short"] = "full"
    profile: bool = False
    model: Path = Path("runs/smol_align/model")
    out: Path = Path("runs/smol_grpo")
    seed: int = 0
    resume: bool = False
    split: Literal["test", "validation"] = "test"
    view: int = 112
    lora: LoRAConfig = LoRAConfig(rank=16, alpha=32.0)
    teacher: SpotTeacher = SpotTeacher()
    items: Items = Items()
    words: WordsStage = WordsStage()
    sft: SFTStage = SFTStage()
    grpo: GRPOStage = GRPOStage()


def shortened(config: SmolGRPO) -> SmolGRPO:
    """The same experiment with a few steps and items."""
    few = lambda stage, steps, **more: dataclasses.replace(  # noqa: E731
        stage, optimizer=dataclasses.replace(stage.optimizer, steps=steps), **more
    )
    return dataclasses.replace(
        config,
        view=56,
        lora=LoRAConfig(rank=4, alpha=8.0),
        items=Items(train=24, held_out=16, curve=16, report=4, at_once=8),
        words=few(config.words, 4, images=16, batch=8),
        sft=few(config.sft, 3, batch=4, chunk=4),
        grpo=few(config.grpo, 3, prompts=2, group=4, every=2),
    )


@dataclasses.dataclass
class Run:
    """What all stages share. ``base``: tower and decoder, which no stage trains, kept out of states and checkpoints."""

    config: SmolGRPO
    model: MedVistaSmol
    base: FlatParams
    progress: Progress
    interrupts: Interrupts
    metrics: MetricsLog

    @cached_property
    def tokenizer(self) -> HubTokenizer:
        return load_tokenizer(self.config.model)

    @cached_property
    def turn_tokens(self) -> int:
        """Room for the teacher's longest turn."""
        turns = [look_turn(key) for key in range(1, MOST + 1)]
        turns += [answer_turn(answer, thought) for answer in STRIPES for thought in ("plain", "clear")]
        return max(len(self.tokenizer.encode(turn)) for turn in turns)

    @cached_property
    def environment(self) -> Environment:
        """Turns, tool and observations in the compact style: a tool's JSON schema would take 150 tokens a prompt."""
        size = (self.config.view, self.config.view)
        return build_environment(
            self.tokenizer, [look], self.model.tokens_per_image, size, TURNS, self.turn_tokens, turn_bytes=160
        )

    def pool(self, split: str, count: int, seed: int = 0) -> QuestionPool:
        """The first questions of a split, their prompts rendered."""
        atlas = Atlas(split, seed=seed)
        items = [atlas.item(FAMILY, index) for index in range(count)]
        chat, per_image = CompactChat(self.tokenizer), self.model.tokens_per_image
        prompts = [chat.prompt(items[0].question, [per_image], specs) for specs in ((), (look.spec,))]
        slots = max(len(prompt.tokens) for prompt in prompts)
        return QuestionPool(items, (FAMILY,), chat, [look], per_image, slots, TURNS)

    def buckets(self, pool: QuestionPool) -> tuple[Bucket, ...]:
        """An answer at once, and one look with an answer; what is longer takes the whole trajectory's slots."""
        turns = [answer_turn(answer, thought) for answer in STRIPES for thought in ("plain", "clear")]
        direct = pool.prompt_slots + max(len(self.tokenizer.encode(turn)) for turn in turns)
        return Bucket(direct, 1), Bucket(direct + self.turn_tokens + self.environment.observation_slots, TURNS)

    def params(self, leaves: FlatParams) -> Params:
        """Everything that the model reads; ``leaves``: connector and adapters."""
        return join(leaves, self.base)

    def stop_if_asked(self, where: str) -> None:
        """Ctrl-C between two pieces of work."""
        if self.interrupts.requested:
            raise self.interrupts.stopped(f"stopped {where}")

    def stage(self, stage: Stage, state: TrainState, profile: Profile | None = None) -> TrainState:
        """:func:`run_stage` with what is common to all."""
        return run_stage(
            stage,
            state,
            self.config.out / "checkpoints",
            progress=self.progress,
            metrics=self.metrics,
            interrupts=self.interrupts,
            resume=self.config.resume,
            profile=profile,
        )

    def lending(self, step: Callable) -> Callable:
        """A step on states without ``base``, lent for the step and taken back: steps donate their buffers."""

        def run(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
            own = set(state.frozen)
            whole, metrics = step(state.replace(frozen={**state.frozen, **self.base}), batch)
            self.base = {name: leaf for name, leaf in whole.frozen.items() if name not in own}
            return whole.replace(frozen={name: whole.frozen[name] for name in own}), metrics

        return run


def weights_of(config: SmolGRPO) -> list[Any]:
    """What tells the model folder from another: its file's size and time."""
    about = (config.model / "model.safetensors").stat()
    return [about.st_size, about.st_mtime_ns]


def parents(config: SmolGRPO) -> list[Any]:
    """What decides the state before SFT, for fingerprints."""
    return [config.seed, config.view, config.lora, config.items.train, config.words, weights_of(config)]


def load(config: SmolGRPO) -> tuple[MedVistaSmol, Params]:
    """The aligned model with fresh adapters.

    Raises:
      ValueError: there is no such folder, or it holds another model.
    """
    if not (config.model / "config.json").is_file():
        raise ValueError(
            f"no model folder at {config.model}: python experiments/smol_align.py makes one in runs/smol_align/model "
            "(19 minutes on two CPU cores); --model names another"
        )
    plain, params = models.load(config.model, image_size=(config.view, config.view))
    if not isinstance(plain, MedVistaSmol):
        raise ValueError(f"{config.model} holds a {type(plain).__name__}; the words stage needs a medvista_smol")
    model = with_lora(plain, config.lora)
    return model, init_lora(model, params, jax.random.key(config.seed))
