"""A finished run without training: random weights, a table of two seeds, and the record of it all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medvista_jax.data.sources import Notice
from medvista_jax.evaluation import tables
from medvista_jax.evaluation.run_record import PolicyRecord, RunRecord, StageRecord, plain, write_record
from medvista_jax.evaluation.setting import Setting, save_policy
from medvista_jax.models.names import flatten

PROTOCOL = tables.Protocol(
    dataset="made questions (targets of zoom items are implanted)",
    split="test: other images",
    scorer="normalised exact match",
    decoding="greedy; sampled at temperature 1",
    notes=("chance is 25 %",),
)
COUNTS = {("sft", 0): (13, 37), ("sft", 1): (11, 37), ("sft_grpo", 0): (29, 37), ("sft_grpo", 1): (31, 37)}
"""(condition, seed) → right, asked."""


def made_rows() -> list[tables.Row]:
    """Rows of needs zoom and all, with tools, greedy."""
    return [
        tables.make_row(
            condition=condition,
            needs=needs,
            tools=True,
            decoding="greedy",
            correct=right + extra,
            n=asked + extra,
            calls=asked,
            seed=seed,
            seconds=1.5,
        )
        for (condition, seed), (right, asked) in COUNTS.items()
        for needs, extra in (("zoom", 0), ("all", 5))
    ]


def made_record(**changes: Any) -> RunRecord:
    """A record of ``medvista-tiny``; ``changes`` are of its fields."""
    record = RunRecord(
        experiment="experiments/made.py",
        title="made-tiny",
        summary="A model that was never trained.",
        command="python experiments/made.py --seeds 2",
        family="medvista_tiny",
        settings={"setting": plain(Setting())},
        stages=(
            StageRecord("sft", "Everything learns from a teacher.", 7, {"optimizer": {"learning_rate": 0.002}}),
            StageRecord("grpo", "The decoder learns from itself.", 3, {"group": 8, "reward": "vista_r1"}),
        ),
        policies={
            "sft": PolicyRecord("seed_{seed}/policy/sft.safetensors", stages=("sft",), conditions=("sft",)),
            "grpo": PolicyRecord(
                "seed_{seed}/policy/grpo.safetensors", stages=("sft", "grpo"), conditions=("sft_grpo",)
            ),
        },
        protocol=PROTOCOL,
        data=(Notice("made", "nobody", "random noise", "CC0"), Notice("other", "else", "more of it", "none stated")),
        implanted="Every target is drawn by the program.",
        limits=("It knows nothing.",),
        seeds=(0, 1),
    )
    return dataclasses.replace(record, **changes)


def write_results(folder: Path, record: RunRecord) -> None:
    """``run.json``, ``table.json`` and ``table.md``."""
    tables.write_tables(folder, made_rows(), record.protocol)
    write_record(folder, record)


def tiny_params(seed: int) -> dict[str, np.ndarray]:
    """Flat random parameters of the packaged setting's model; nothing is compiled."""
    rng = np.random.default_rng(seed)
    shapes = flatten(jax.eval_shape(Setting().model.init, jax.random.key(0)))
    return {path: rng.standard_normal(leaf.shape).astype(np.float32) for path, leaf in shapes.items()}


def made_run(folder: Path) -> Path:
    """A run of ``medvista-tiny`` with two policies of two seeds."""
    write_results(folder, made_record())
    for seed in (0, 1):
        for number, name in enumerate(("sft", "grpo")):
            leaves = tiny_params(2 * seed + number)
            decoder = {path: leaf for path, leaf in leaves.items() if path.startswith("decoder")}
            rest = {path: leaf for path, leaf in leaves.items() if path not in decoder}
            save_policy(folder / f"seed_{seed}" / "policy" / f"{name}.safetensors", decoder, rest)
    return folder
