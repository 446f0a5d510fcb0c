"""What ``smol_grpo.py`` measures on held-out questions and writes: table, curves, report, adapters."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence

import jax
import numpy as np
from smol_grpo_record import record_of
from smol_grpo_setting import TURNS, Run, SmolGRPO, parents

from medvista_jax.data.controls import encode_script
from medvista_jax.data.questions import QuestionPool
from medvista_jax.data.spots import BEST, FAMILY, look_turn
from medvista_jax.evaluation import tables
from medvista_jax.evaluation.cards import make_cards
from medvista_jax.evaluation.evaluate import Evaluation, evaluate, play
from medvista_jax.evaluation.plots import Panel, draw_curves
from medvista_jax.evaluation.report import ReportCard, write_report
from medvista_jax.evaluation.run_record import write_record
from medvista_jax.learning.state import FlatParams
from medvista_jax.models.lora import TRAINABLE
from medvista_jax.models.lora_files import save_adapters
from medvista_jax.models.medvista_smol.packaged import save_for_view
from medvista_jax.rollout.loop import Script
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.metrics import read_metrics
from medvista_jax.runtime.progress import duration
from medvista_jax.runtime.stages import fingerprint
from medvista_jax.tools.look import MOST

PANELS = (
    Panel("words", "Words in place: loss", "squared distance", ("loss",), log=True),
    Panel("sft", "SFT: loss", "nats a token", ("loss",), log=True),
    Panel("grpo", "Held out: accuracy (95 % interval)", "percent", ("greedy", "sampled"), fraction=True, band=True),
    Panel("grpo", "Held out: calls a question", "calls", ("greedy_calls", "sampled_calls"), zero=True),
    Panel("grpo", "GRPO: reward and its terms", "reward", ("reward", "reward_*")),
    Panel("grpo", "GRPO: accuracy in training (sampled)", "percent", ("accuracy",), fraction=True),
    Panel("grpo", "GRPO: entropy", "nats a token", ("entropy",), zero=True),
    Panel("grpo", "GRPO: rollout against loss", "largest |Δ log-probability|", ("logprob_mismatch*",), log=True),
    Panel("grpo", "GRPO: gradient norm", "norm", ("grad_norm",), log=True),
)


def curve_point(name: str, accuracy: float, interval: Sequence[float], calls: float) -> dict[str, float]:
    """Metrics of a point of the held-out curves."""
    return {name: accuracy, f"{name}_low": interval[0], f"{name}_high": interval[1], f"{name}_calls": calls}


def measure(
    run: Run,
    pool: QuestionPool,
    leaves: FlatParams,
    decoding: str,
    how: str = "tools",
    items: int | None = None,
    after_batch: Callable[[int], None] = lambda played: None,
) -> Evaluation:
    """A policy's answers to a pool.

    Args:
      items: how many of the pool; all by default.
      how: ``"tools"``, ``"no tools"``, or which look is played: at the ``"right"`` or a ``"wrong"`` spot.
    """

    def batch(rows: np.ndarray):
        question, key = pool.batch(rows, how != "no tools")
        spot = {"right": BEST, "wrong": MOST}.get(how)
        texts: list[list[str]] = [[look_turn(spot)] if spot else [] for _ in rows]
        return question, key, Script(*encode_script(texts, run.tokenizer, TURNS, run.turn_tokens))

    return evaluate(
        run.model,
        run.params(leaves),
        run.environment,
        batch,
        len(pool) if items is None else items,
        key=jax.random.key(run.config.seed),
        temperature=0.0 if decoding == "greedy" else run.config.grpo.temperature,
        rows_at_once=run.config.items.at_once,
        after_batch=after_batch,
    )


LINES = (
    ("aligned", "greedy", "tools"),
    ("sft", "greedy", "no tools"),
    ("sft", "greedy", "tools"),
    ("sft", "sampled", "tools"),
    ("sft_grpo", "greedy", "no tools"),
    ("sft_grpo", "greedy", "tools"),
    ("sft_grpo", "sampled", "tools"),
    ("wrong_spot", "greedy", "wrong"),
    ("right_spot", "greedy", "right"),
    ("right_spot_after_sft", "greedy", "right"),
)
"""Lines of the table: name, decoding, ``how`` of :func:`measure`."""

POLICY = {"wrong_spot": "sft_grpo", "right_spot": "sft_grpo", "right_spot_after_sft": "sft"}
"""Who answers behind a look that is played; elsewhere the line names its policy."""


def measured(run: Run, pool: QuestionPool, policies: dict[str, FlatParams]) -> list[tables.Row]:
    """Every line of the table; finished ones are kept in OUT/rows.json."""
    config, path = run.config, run.config.out / "rows.json"
    identity = fingerprint([*parents(config), config.sft, config.teacher, config.grpo, config.items, config.split])
    kept = json.loads(path.read_text()) if path.exists() else {}
    cells: dict[str, tables.Row] = kept.get("cells", {}) if kept.get("identity") == identity else {}
    with run.progress.stage("evaluation", total=len(LINES) * len(pool), done=len(cells) * len(pool)) as bar:

        def after_batch(played: int) -> None:
            bar.advance(played)
            run.stop_if_asked("in the evaluation; finished lines are kept")

        for name, decoding, how in LINES:
            cell = f"{name}/{decoding}/{how}"
            if cell in cells:
                continue
            leaves = policies[POLICY.get(name, name)]
            result = measure(run, pool, leaves, decoding, how, after_batch=after_batch)
            cells[cell] = tables.make_row(
                condition=name,
                needs="zoom",
                tools=how != "no tools",
                decoding=decoding,
                correct=int(result.correct.sum()),
                n=len(pool),
                calls=int(result.calls.sum()),
                seed=config.seed,
                seconds=result.seconds,
            )
            path.write_text(json.dumps({"identity": identity, "cells": cells}, indent=1))
    return [cells[f"{name}/{decoding}/{how}"] for name, decoding, how in LINES]


def cards_of(run: Run, pool: QuestionPool, policies: dict[str, FlatParams]) -> list[ReportCard]:
    """The same held-out questions before and after GRPO, greedy, to look at."""
    count, cards = run.config.items.report, []
    question, key = pool.batch(np.resize(np.arange(count), run.config.items.at_once))  # the evaluation's program
    script = Script(*encode_script([[]] * run.config.items.at_once, run.tokenizer, TURNS, run.turn_tokens))
    for name in ("sft_grpo", "sft"):
        trajectory, terms = play(
            run.model,
            "vista_r1",
            run.params(policies[name]),
            run.environment,
            question,
            key,
            script,
            jax.random.key(run.config.seed),
            Sampling.at(0.0),
        )
        cards += make_cards(run.environment, run.tokenizer, pool.items[:count], question, trajectory, terms, name)
    return sorted(cards, key=lambda card: card.id)


def protocol_of(config: SmolGRPO) -> tables.Protocol:
    """What every number of the table was measured with."""
    teacher = config.teacher
    return tables.Protocol(
        dataset=f"packaged atlas, family {FAMILY} (targets are implanted)",
        split=f"{config.split}, other brain template and other slices than training",
        scorer="normalised exact match",
        decoding=f"greedy; sampled at temperature {config.grpo.temperature:g}",
        machine=f"{os.cpu_count()} CPU cores" if jax.devices()[0].platform == "cpu" else str(jax.devices()),
        notes=(
            "Chance is 25 %. 'aligned': the model before SFT, which knows neither tool nor format. 'right spot' and "
            "'wrong spot': the look is played, the answer is that of the policy after GRPO or, where it says so, SFT.",
            f"The teacher of SFT answers {teacher.direct:.0%} of the questions without a look, and {teacher.stray:.0%} "
            "of its looks are at a wrong spot; its answers are right.",
            f"{config.sft.optimizer.steps} SFT steps of {config.sft.batch} and {config.grpo.optimizer.steps} GRPO "
            f"steps of {config.grpo.prompts} questions x {config.grpo.group} episodes, LoRA rank {config.lora.rank}.",
        ),
    )


def write_results(run: Run, rows: list[tables.Row], cards: list[ReportCard], seconds: float) -> tables.Protocol:
    """Tables, curves and the page."""
    config, out = run.config, run.config.out
    protocol = protocol_of(config)
    tables.write_tables(out, rows, protocol)
    last = {"stage": "grpo", "step": config.grpo.optimizer.steps + 1}  # the table's values end the held-out curves
    for row in rows:
        if row["condition"] == "sft_grpo" and row["tools"]:
            last |= curve_point(row["decoding"], row["accuracy"], row["ci95"], row["calls_per_question"])
    draw_curves([*read_metrics(out / "metrics.jsonl"), last], out / "curves.png", PANELS)
    facts = {
        "date": datetime.date.today().isoformat(),
        "seed": str(config.seed),
        "this run": duration(seconds),
        "jax": f"{jax.__version__} on {jax.devices()[0].platform}, {os.cpu_count()} cores",
        "model": f"{config.model}, views of {config.view}² pixels",
    }
    title = "The packaged 157M model learns to look twice"
    write_report(out / "report.html", title, cards, rows, facts, out / "curves.png", protocol)
    write_record(out, record_of(config, protocol))
    return protocol


def save(run: Run, leaves: FlatParams) -> None:
    """OUT/model, a hub folder with the trained connector, and OUT/adapters, which belong to it."""
    folder = run.config.out / "model"
    plain = dataclasses.replace(run.model, adapters=None)
    connector = {name: leaf for name, leaf in leaves.items() if not re.search(TRAINABLE, name)}
    shutil.rmtree(folder, ignore_errors=True)
    save_for_view(plain, run.params(connector), folder)
    source = dataclasses.replace(run.model.source, folder=str(folder))
    save_adapters(dataclasses.replace(run.model, source=source), run.params(leaves), run.config.out / "adapters")
