"""What the ``table_*.py`` are made of: trainings of `medvista-tiny`, each done once, and cells, each played once.

A training's folder and a cell's file are named by the fingerprint of all that decides them, its parents included; so
tables that need the same training or cell share it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from recipe import (
    GRPOStage,
    PerceptionStage,
    SFTStage,
    perception_config,
    train_grpo,
    train_perception,
    train_sft,
)

from medvista_jax.core.types import Params
from medvista_jax.data.atlas import FAMILIES
from medvista_jax.data.questions import QuestionPool
from medvista_jax.data.teachers import TeacherConfig
from medvista_jax.evaluation.cells import CellStore, Outcomes
from medvista_jax.evaluation.conditions import Condition, batch_maker
from medvista_jax.evaluation.evaluate import evaluate
from medvista_jax.evaluation.setting import FAMILY_WEIGHTS, Setting, VariedSetting, load_policy, save_policy
from medvista_jax.runtime.interrupt import Interrupts
from medvista_jax.runtime.metrics import MetricsLog
from medvista_jax.runtime.progress import Progress, Stage
from medvista_jax.runtime.stages import fingerprint

Kind = Literal["eyes", "direct", "sft", "rl"]

STEP_SECONDS = {"eyes": 0.18, "direct": 0.06, "sft": 0.11, "rl": 1.2 / 128}
"""Of a step, of RL of an episode: seconds on two cores, from which the time left is estimated before anything ran."""
COMPILE_SECONDS, ITEM_SECONDS = 20.0, 0.006


def about(setting: Setting) -> dict[str, Any]:
    """A setting as JSON; settings that mean the same are the same."""
    varied = setting if isinstance(setting, VariedSetting) else VariedSetting(**dataclasses.asdict(setting))
    return {"of": "medvista-tiny", **dataclasses.asdict(varied)}


@dataclasses.dataclass(frozen=True)
class Training:
    """A stage of training, and through ``parent`` those before it.

    Attributes:
      kind: ``"eyes"``: perception; ``"direct"``: SFT without tools, the stand-in for a base model; ``"sft"``; ``"rl"``.
      items: questions of the training split.
      tools: of ``"rl"``: whether prompts offer any.
    """

    kind: Kind
    setting: Setting
    stage: PerceptionStage | SFTStage | GRPOStage
    seed: int
    items: int
    parent: Training | None = None
    teacher: TeacherConfig | None = None
    tools: bool = True

    @cached_property
    def described(self) -> dict[str, Any]:
        """All that decides the result, as JSON."""
        # The eyes are of a model, whatever environment it will play in.
        where = {"image": self.setting.model.image_size[0]} if self.kind == "eyes" else about(self.setting)
        own = perception_config() if self.kind == "eyes" else None
        return {
            "kind": self.kind,
            "seed": self.seed,
            "items": self.items,
            "setting": where,
            "stage": dataclasses.asdict(self.stage),
            "loss": own and dataclasses.asdict(own),
            "teacher": self.teacher and dataclasses.asdict(self.teacher),
            "tools": self.tools,
            "parent": self.parent and self.parent.described,
        }

    @cached_property
    def identity(self) -> str:
        return f"{self.kind}-{fingerprint(self.described)}"

    @property
    def steps(self) -> int:
        return self.stage.direct_steps if self.kind == "direct" else self.stage.optimizer.steps

    @property
    def step_seconds(self) -> float:
        """A guess."""
        episodes = self.stage.prompts * self.stage.algorithm.group if isinstance(self.stage, GRPOStage) else 1
        return STEP_SECONDS[self.kind] * episodes * (self.setting.model.image_size[0] / 64) ** 2

    @property
    def seconds(self) -> float:
        """A guess."""
        return COMPILE_SECONDS + self.steps * self.step_seconds


@dataclasses.dataclass(frozen=True)
class Cell:
    """One policy on the held-out items, greedy.

    Attributes:
      setting: where it plays; may differ from where it was trained.
      tools: offered or not.
      look: see :class:`medvista_jax.evaluation.conditions.Condition`.
      split, per_family: the items, as many of each family of the atlas.
    """

    training: Training
    setting: Setting
    split: str
    per_family: int
    tools: bool = True
    look: str = "policy"

    @cached_property
    def described(self) -> dict[str, Any]:
        """All that decides the result, as JSON."""
        return {
            "policy": self.training.described,
            "setting": about(self.setting),
            "split": self.split,
            "per_family": self.per_family,
            "tools": self.tools,
            "look": self.look,
            "decoding": "greedy",
        }

    @cached_property
    def identity(self) -> str:
        return fingerprint(self.described)

    @property
    def items(self) -> int:
        return self.per_family * len(FAMILIES)

    @property
    def seconds(self) -> float:
        """A guess."""
        return COMPILE_SECONDS / 4 + self.items * ITEM_SECONDS


class Counted(MetricsLog):
    """Metrics that move the bar of all cells with every step."""

    def __init__(self, path: Path, work: Work, seconds: float) -> None:
        super().__init__(path)
        self.work, self.seconds, self.last = work, seconds, 0

    def write(self, stage: str, step: int, values: dict[str, Any]) -> None:
        super().write(stage, step, values)
        self.work.advance((step - self.last) * self.seconds)
        self.last = step


class Work:
    """Seconds of work as a bar takes them, in whole ones."""

    def __init__(self, bar: Stage) -> None:
        self.bar, self.exact, self.shown = bar, 0.0, 0

    def advance(self, seconds: float, **values: Any) -> None:
        self.exact += seconds
        whole = int(self.exact) - self.shown
        self.shown += whole
        self.bar.advance(whole, **values)


class Workshop:
    """Trains and plays what is asked for and not there yet.

    Args:
      folder: holds ``trainings/`` and ``cells/``.
      at_once: items of a batch that is played.
    """

    def __init__(self, folder: Path, at_once: int, progress: Progress, interrupts: Interrupts) -> None:
        self.folder, self.at_once = folder, at_once
        self.progress, self.interrupts = progress, interrupts
        self.store = CellStore(folder / "cells", progress.note)
        self._pools: dict[str, QuestionPool] = {}
        self._drawn: dict[tuple[str, int], QuestionPool] = {}

    def outcomes(self, cells: Iterable[Cell]) -> dict[str, Outcomes]:
        """Of every cell, by its identity. Raises Interrupted when asked to stop; what is finished stays."""
        wanted = {cell.identity: cell for cell in cells}
        found = {name: held for name in wanted if (held := self.store.get(name)) is not None}
        todo = [cell for name, cell in wanted.items() if name not in found]
        total = sum(cell.seconds for cell in todo) + sum(one.seconds for one in self._missing(todo))
        self.progress.note(
            f"{len(wanted)} cells, {len(found)} of them are there; {len(self._missing(todo))} trainings to do"
        )
        with self.progress.stage("all cells, in seconds of work", total=max(1, round(total))) as bar:
            work = Work(bar)
            for cell in todo:
                work.advance(0.0, cells=f"{len(found)}/{len(wanted)}")
                found[cell.identity] = self._play(cell, work)
            bar.advance(bar.total - bar.done, cells=f"{len(found)}/{len(wanted)}")
        return found

    def _missing(self, cells: Iterable[Cell]) -> list[Training]:
        """Trainings to do, parents first."""
        missing: dict[str, Training] = {}
        for cell in cells:
            chain, one = [], cell.training
            while one is not None and not self._policy_path(one).exists():
                chain.append(one)
                one = one.parent
            missing |= {training.identity: training for training in reversed(chain)}
        return list(missing.values())

    def _policy_path(self, training: Training) -> Path:
        return self.folder / "trainings" / training.identity / "policy.safetensors"

    def policy(self, training: Training, work: Work) -> Params:
        """Parameters at the end of a training."""
        path = self._policy_path(training)
        if not path.exists():
            before = None if training.parent is None else self.policy(training.parent, work)
            self._train(training, before, path.parent, work)
        return load_policy(path)

    def _train(self, training: Training, before: Params | None, folder: Path, work: Work) -> None:
        """An unfinished training goes on where it was."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text(json.dumps(training.described, indent=1), encoding="utf-8")
        pool = self._pool(training.setting, "train", training.items)
        steps_of = {"setting": training.setting, "stage": training.stage, "pool": pool, "seed": training.seed}
        with self.progress.stage(training.identity, total=1) as bar:
            with Counted(folder / "metrics.jsonl", work, training.step_seconds) as metrics:
                steps_of["identity"] = training.identity
                steps_of["run"] = {
                    "folder": folder / "checkpoints",
                    "progress": self.progress,
                    "metrics": metrics,
                    "interrupts": self.interrupts,
                    "resume": True,
                }
                if training.kind == "eyes":
                    state = train_perception(**steps_of)
                elif training.kind == "rl":
                    state = train_grpo(**steps_of, before=before, tools=training.tools)
                else:
                    teacher, tools = training.teacher, training.kind == "sft"
                    state = train_sft(**steps_of, before=before, teacher=teacher, tools=tools)
            unfinished = folder / "policy.unfinished"
            save_policy(unfinished, state.trainable, state.frozen)
            os.replace(unfinished, folder / "policy.safetensors")
            shutil.rmtree(folder / "checkpoints")  # the optimizer's memory is of no more use
            bar.advance()
        work.advance(COMPILE_SECONDS)

    def _pool(self, setting: Setting, split: str, items: int) -> QuestionPool:
        """Of the training split in the proportions of the quickstart, of others as many of each family."""
        name = fingerprint([about(setting), split, items])
        if name not in self._pools:
            if (split, items) not in self._drawn:
                self.progress.note(f"drawing {items} questions of split {split}")
                pool = setting.pool(split, items, FAMILY_WEIGHTS if split == "train" else None)
                self._drawn[split, items] = pool
            else:  # the same questions in other prompts
                drawn = self._drawn[split, items]
                pool = setting.pool_of(drawn.items)
                pool.images = drawn.images  # 0.8 GB of the training split, once for all settings
            self._pools[name] = pool
        return self._pools[name]

    def _play(self, cell: Cell, work: Work) -> Outcomes:
        params = self.policy(cell.training, work)
        pool = self._pool(cell.setting, cell.split, cell.items)
        seed = cell.training.seed
        condition = Condition(f"{cell.look}_look", cell.training.kind, cell.tools, cell.look)

        def after_batch(played: int) -> None:
            work.advance(played * ITEM_SECONDS)
            if self.interrupts.requested:
                raise self.interrupts.stopped("stopped while a cell was played; finished cells are kept")

        result = evaluate(
            cell.setting.model,
            params,
            cell.setting.environment,
            batch_maker(cell.setting, pool, condition, seed),
            len(pool),
            key=jax.random.key(seed),
            temperature=0.0,
            rows_at_once=min(self.at_once, len(pool)),
            after_batch=after_batch,
        )
        outcomes = Outcomes(
            items=np.array([item.id for item in pool.items]),
            groups={"needs": pool.needs, "family": np.array([item.family for item in pool.items])},
            correct=result.correct,
            calls=result.calls,
            seed=seed,
            seconds=result.seconds,
        )
        self.store.put(cell.identity, cell.described, outcomes)
        work.advance(COMPILE_SECONDS / 4)
        return outcomes
