"""Train `medvista-tiny` to think with medical images, end to end, on real images: perception, SFT, GRPO, table, report.

    python experiments/quickstart.py                        # one seed, at most ten minutes on two CPU cores
    python experiments/quickstart.py --seeds 3              # the table of the README
    python experiments/quickstart.py --teacher.shift 0 --out runs/unshifted
    python experiments/quickstart.py --preset short         # every stage, a few steps each: a smoke test
    python experiments/quickstart.py --resume               # go on after Ctrl-C or a kill

Writes OUT/table.json, table.md, report.html, curves.png, metrics.jsonl and, for each seed, OUT/seed_K with the
checkpoints and the policy of every stage and trajectories that `python -m medvista_jax replay OUT/seed_K` plays again;
and OUT/run.json, from which `experiments/export.py OUT FOLDER` writes the model as a hub folder with its card.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from quickstart_record import record_of
from recipe import (
    GRPOStage,
    PerceptionStage,
    SFTStage,
    perception_config,
    train_grpo,
    train_perception,
    train_sft,
    with_steps,
)

from medvista_jax.data.atlas import FAMILIES
from medvista_jax.data.questions import QuestionPool
from medvista_jax.data.sources import MissingSource
from medvista_jax.data.teachers import TeacherConfig
from medvista_jax.evaluation import tables
from medvista_jax.evaluation.cards import make_cards
from medvista_jax.evaluation.conditions import CONDITIONS, batch_maker
from medvista_jax.evaluation.evaluate import evaluate, rows_by_need
from medvista_jax.evaluation.plots import draw_curves
from medvista_jax.evaluation.replay import play_and_save
from medvista_jax.evaluation.report import write_report
from medvista_jax.evaluation.run_record import write_record
from medvista_jax.evaluation.setting import FAMILY_WEIGHTS, Setting, load_policy, save_policy
from medvista_jax.runtime.checkpoints import CheckpointError
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.runtime.interrupt import Interrupts
from medvista_jax.runtime.metrics import MetricsLog, read_metrics, truncate
from medvista_jax.runtime.profile import Profile
from medvista_jax.runtime.progress import Progress, duration
from medvista_jax.runtime.stages import Interrupted, NotFinite, fingerprint


@dataclasses.dataclass(frozen=True)
class Items:
    """Questions of the pools: for training; of the test split for the table; of it for the report."""

    train: int = 6144
    zoom: int = 384
    others: int = 330
    report: int = 36
    at_once: int = 256


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """Every knob. `preset short` runs a few steps of everything; numbers given beside it are overruled by it. `profile`
    traces two steps of GRPO into OUT/seed_N/profile."""

    preset: Literal["full", "short"] = "full"
    out: Path = Path("runs/quickstart")
    seeds: int = 1
    resume: bool = False
    profile: bool = False
    split: Literal["test", "validation"] = "test"
    setting: Setting = Setting()
    teacher: TeacherConfig = TeacherConfig()
    perception: PerceptionStage = PerceptionStage()
    sft: SFTStage = SFTStage()
    grpo: GRPOStage = GRPOStage()
    items: Items = Items()


def shortened(config: Quickstart) -> Quickstart:
    """The same experiment with a few steps and items."""
    return dataclasses.replace(
        config,
        perception=with_steps(config.perception, 4),
        sft=dataclasses.replace(with_steps(config.sft, 4), batch=16, direct_steps=4),
        grpo=dataclasses.replace(with_steps(config.grpo, 3), prompts=4),
        items=Items(train=240, zoom=32, others=40, report=36, at_once=36),
    )


def train(config: Quickstart, seed: int, folder: Path, progress: Progress, interrupts: Interrupts) -> str:
    """All stages of a seed; policies are left in FOLDER/policy. Returns what identifies the result."""
    pool = config.setting.pool("train", config.items.train, FAMILY_WEIGHTS)
    if not config.resume:
        truncate_stale(folder, config)
    with MetricsLog(folder / "metrics.jsonl") as metrics:
        run: dict[str, Any] = {
            "folder": folder / "checkpoints",
            "progress": progress,
            "metrics": metrics,
            "interrupts": interrupts,
            "resume": config.resume,
        }
        setting, teacher = config.setting, config.teacher
        identity = fingerprint([seed, config.perception, perception_config(), config.items.train, setting])
        eyes = train_perception(setting, config.perception, pool, seed, identity=identity, run=run).params()
        parent = fingerprint([seed, config.perception, config.items.train, setting])
        blind, taught = (
            train_sft(
                setting,
                config.sft,
                teacher,
                pool,
                eyes,
                seed,
                tools,
                identity=fingerprint([parent, config.sft, config.sft.static, teacher, tools]),
                run=run,
            )
            for tools in (False, True)
        )
        parent = fingerprint([parent, config.sft, teacher])
        profile = Profile(folder / "profile") if config.profile else None
        trained = train_grpo(
            setting,
            config.grpo,
            pool,
            taught.params(),
            seed,
            identity=fingerprint([parent, config.grpo]),
            run={**run, "profile": profile},
        )
    for name, state in {"no_tools": blind, "sft": taught, "grpo": trained}.items():
        save_policy(folder / "policy" / f"{name}.safetensors", state.trainable, state.frozen)
    return fingerprint([parent, config.grpo])


def truncate_stale(folder: Path, config: Quickstart) -> None:
    """Without `--resume` unfinished stages start over: drop the metrics of every stage that has not reached its end."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    ends = {
        "perception": config.perception.optimizer.steps,
        "no_tools": config.sft.direct_steps,
        "sft": config.sft.optimizer.steps,
        "grpo": config.grpo.optimizer.steps,
    }
    reached: dict[str, int] = {}
    for record in read_metrics(path):
        reached[record["stage"]] = record["step"]
    for stage, end in ends.items():
        if reached.get(stage, 0) != end:
            truncate(path, 0, stage)
            return


def measure(
    config: Quickstart, seed: int, folder: Path, identity: str, progress: Progress, interrupts: Interrupts
) -> list[tables.Row]:
    """Every condition of the table on held-out items. Finished ones are kept in FOLDER/rows.json, not played again."""
    pool = held_out(config)
    path = folder / "rows.json"
    identity = fingerprint([identity, config.items, config.split])
    kept = json.loads(path.read_text()) if path.exists() else {}
    cells: dict[str, list[tables.Row]] = kept.get("cells", {}) if kept.get("identity") == identity else {}
    jobs = [(condition, decoding) for condition in CONDITIONS for decoding in condition.decodings]
    with progress.stage("evaluation", total=len(jobs) * len(pool), done=len(cells) * len(pool)) as bar:

        def after_batch(played: int) -> None:
            bar.advance(played)
            if interrupts.requested:
                raise interrupts.stopped("stopped in the evaluation; finished conditions are kept")

        for condition, decoding in jobs:
            name = f"{condition.name}/{'tools' if condition.tools else 'no tools'}/{decoding}"
            if name in cells:
                continue
            result = evaluate(
                config.setting.model,
                load_policy(folder / "policy" / f"{condition.policy}.safetensors"),
                config.setting.environment,
                batch_maker(config.setting, pool, condition, seed),
                len(pool),
                key=jax.random.key(seed),
                temperature=0.0 if decoding == "greedy" else config.grpo.temperature,
                rows_at_once=config.items.at_once,
                after_batch=after_batch,
            )
            cells[name] = rows_by_need(
                result, pool.needs, condition=condition.name, tools=condition.tools, decoding=decoding, seed=seed
            )
            path.write_text(json.dumps({"identity": identity, "cells": cells}, indent=1))
    return [row for rows in cells.values() for row in rows]


def held_out(config: Quickstart) -> QuestionPool:
    """Items of the table: the zoom families share `zoom` items, the others `others`."""
    setting, items = config.setting, config.items
    weights = {"implant_shape": items.zoom / 2, "implant_stripes": items.zoom / 2}
    rest = [name for name in FAMILIES if name not in weights]
    weights |= {name: items.others / len(rest) for name in rest}
    return setting.pool(config.split, items.zoom + items.others, weights)


def report(config: Quickstart, folder: Path, rows: list[tables.Row], seconds: dict[str, float]) -> tables.Protocol:
    """Table, curves and the page, from the first seed's policies."""
    out, first = config.out, folder
    tables.write_tables(out, rows, protocol := protocol_of(config))
    records = read_metrics(first / "metrics.jsonl")
    draw_curves(records, out / "curves.png")
    pool = config.setting.pool(config.split, config.items.report)
    cards = []
    for condition in CONDITIONS:
        if condition.name in ("sft_grpo", "sft", "no_tools") and (condition.tools or condition.name == "no_tools"):
            question, trajectory, terms = play_and_save(first, config.setting, pool, condition, 0, 0.0)
            cards += make_cards(
                config.setting.environment,
                config.setting.tokenizer,
                pool.items,
                question,
                trajectory,
                terms,
                condition.name,
            )
    order = {"sft_grpo": 0, "sft": 1, "no_tools": 2}
    cards.sort(key=lambda card: (order[card.condition], card.needs != "zoom", card.family, card.id))
    facts = {
        "date": datetime.date.today().isoformat(),
        "seeds": str(config.seeds),
        "training": ", ".join(f"seed {seed}: {duration(s)}" for seed, s in seconds.items()),
        "jax": f"{jax.__version__} on {jax.devices()[0].platform}, {os.cpu_count()} cores",
        "teacher": f"noise {config.teacher.noise:g} px, shift {config.teacher.shift:g} px, "
        f"{config.teacher.direct:.0%} direct answers, {config.teacher.wrong_first:.0%} wrong first looks",
    }
    title = "medvista-tiny on the packaged atlas"
    write_report(out / "report.html", title, cards, rows, facts, out / "curves.png", protocol)
    return protocol


def protocol_of(config: Quickstart) -> tables.Protocol:
    """What every number of this table was measured with."""
    share = config.items.zoom / (config.items.zoom + config.items.others)
    return tables.Protocol(
        dataset="packaged atlas (targets of implant_* and same_shape and lesions of lesion_ct are implanted)",
        split=f"{config.split}, other brain template and other image regions than training",
        scorer="normalised exact match",
        decoding=f"greedy; sampled at temperature {config.grpo.temperature:g}",
        machine=f"{os.cpu_count()} CPU cores" if jax.devices()[0].platform == "cpu" else str(jax.devices()),
        notes=(
            f"chance is 25 % where needs = zoom; 'all' is the mean over items, {100 * share:.0f} % of them zoom items",
            "random and oracle crops are played for SFT + GRPO; when it looks again it is refused and may still answer",
        ),
    )


def run(config: Quickstart) -> None:
    """The whole experiment."""
    enable_compile_cache()
    config.out.mkdir(parents=True, exist_ok=True)
    rows: list[tables.Row] = []
    seconds: dict[str, float] = {}
    with Interrupts() as interrupts, Progress() as progress:
        for seed in range(config.seeds):
            folder = config.out / f"seed_{seed}"
            started = time.perf_counter()
            with progress.stage(f"seed {seed}", total=2) as bar:
                identity = train(config, seed, folder, progress, interrupts)
                bar.advance()
                rows += measure(config, seed, folder, identity, progress, interrupts)
                bar.advance()
            seconds[str(seed)] = time.perf_counter() - started
        progress.note("drawing the report")
        protocol = report(config, config.out / "seed_0", rows, seconds)
        write_record(config.out, record_of(config, protocol))
    with (config.out / "metrics.jsonl").open("w", encoding="utf-8") as merged:
        for seed in range(config.seeds):
            for record in read_metrics(config.out / f"seed_{seed}" / "metrics.jsonl"):
                merged.write(json.dumps({"seed": seed, **record}) + "\n")
    tables.print_table(rows, protocol)
    print(f"\nLook at {config.out / 'report.html'} (trajectories), curves.png and table.md beside it.")


def main() -> int:
    config = tyro.cli(Quickstart, description=__doc__)
    if config.preset == "short":
        config = shortened(config)
    try:
        run(config)
    except Interrupted as stop:
        print(f"\n{stop.args[0]}. Go on with:  python {' '.join([*sys.argv, '--resume'])}", file=sys.stderr)
        return stop.exit_code
    except (CheckpointError, MissingSource, NotFinite, ValueError, OSError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
