"""Give the packaged 157M model eyes: its connector learns captions of atlas images, all else is frozen.

    python experiments/smol_align.py                     # one seed, within 45 minutes on two CPU cores
    python experiments/smol_align.py --preset short      # every stage, a few steps each: a smoke test
    python experiments/smol_align.py --resume            # go on after Ctrl-C or a kill

Writes OUT/table.md, table.json, curves.png, metrics.jsonl, captions.md, and the hub folder OUT/model, which
`models.load` opens and other experiments start from. The probe is held out (other brain template, other image regions):
the model itself answers which plane a slice is and on which side a marker lies, by the option that it finds likeliest.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from medvista_jax import models
from medvista_jax.core.types import Params
from medvista_jax.data.atlas import Atlas
from medvista_jax.data.captions import CAPTION_PROMPT, WORDS, caption, facts_of, words_in_place
from medvista_jax.data.item import AtlasItem
from medvista_jax.data.lessons import SYSTEM, Lessons
from medvista_jax.evaluation.options import ProbeRow, option_scores, probe_row, write_probe_tables
from medvista_jax.evaluation.plots import Panel, draw_curves
from medvista_jax.learning.align import LessonBatch, WordBatch, lessons_step, word_table, words_step
from medvista_jax.learning.state import OptimizerConfig, TrainState, start
from medvista_jax.models.inputs import Batch
from medvista_jax.models.medvista_smol import MedVistaSmol
from medvista_jax.models.medvista_smol.packaged import packaged_folder, save_for_view
from medvista_jax.rollout.generate import greedy
from medvista_jax.runtime.checkpoints import CheckpointError
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.runtime.interrupt import Interrupts
from medvista_jax.runtime.metrics import MetricsLog, read_metrics, truncate
from medvista_jax.runtime.progress import Progress, duration
from medvista_jax.runtime.stages import Interrupted, NotFinite, Stage, fingerprint, run_stage
from medvista_jax.runtime.wheels import MissingSource
from medvista_jax.text.hub_chat import HubChat, load_chat
from medvista_jax.tools.resample import apply_window, crop_resize

TASKS = ("plane", "side")
END = "<|im_end|>"
FAMILY_WEIGHTS = {
    "side": 3.0,
    "structure_at_marker": 1.5,
    "plane": 1.5,
    "modality": 1.0,
    "implant_shape": 0.5,
    "implant_stripes": 0.5,
}
"""Share of each family in the training images; most have a marker."""

PANELS = (
    Panel("words", "Words in place: loss", "squared distance", ("loss",), log=True),
    Panel("words", "Words in place: places named right", "percent", ("named",), fraction=True),
    Panel("lessons", "Captions and answers: loss", "nats a token", ("loss",), log=True),
    Panel("lessons", "Captions and answers: tokens right", "percent", ("right",), fraction=True),
)


@dataclasses.dataclass(frozen=True)
class Images:
    """`probe`: held-out items a task. `view`: pixels a side of what the tower reads, which cost (view / 28)² tokens."""

    train: int = 2000
    probe: int = 240
    view: int = 168
    at_once: int = 8


@dataclasses.dataclass(frozen=True)
class WordsStage:
    """Each embedding learns to be the word for what lies there. `marker_weight`: a marker is one place in dozens."""

    batch: int = 32
    marker_weight: float = 15.0
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-3, steps=500, weight_decay=0.03)


@dataclasses.dataclass(frozen=True)
class LessonsStage:
    """Captions and answers through the language model. `captions`: their share; the others are questions."""

    batch: int = 8
    captions: float = 0.5
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-4, steps=400, warmup=0.05)


@dataclasses.dataclass(frozen=True)
class SmolAlign:
    """Every knob. `preset short` runs a few steps of everything; numbers given beside it are overruled by it."""

    preset: Literal["full", "short"] = "full"
    out: Path = Path("runs/smol_align")
    seed: int = 0
    resume: bool = False
    split: Literal["test", "validation"] = "test"
    images: Images = Images()
    words: WordsStage = WordsStage()
    lessons: LessonsStage = LessonsStage()


def shortened(config: SmolAlign) -> SmolAlign:
    """The same experiment with a few steps and items."""
    few = lambda stage, steps, batch: dataclasses.replace(  # noqa: E731
        stage, batch=batch, optimizer=dataclasses.replace(stage.optimizer, steps=steps)
    )
    return dataclasses.replace(
        config,
        images=Images(train=24, probe=8, view=56, at_once=8),
        words=few(config.words, 6, 8),
        lessons=few(config.lessons, 4, 2),
    )


@dataclasses.dataclass
class Run:
    """What all stages share."""

    config: SmolAlign
    model: MedVistaSmol
    params: Params
    chat: HubChat
    progress: Progress
    interrupts: Interrupts
    metrics: MetricsLog

    @property
    def decoder(self) -> Params:
        """The frozen language model alone."""
        return {"decoder": self.params["decoder"]}


@partial(jax.jit, static_argnames=("model",))
def encode(model: MedVistaSmol, params: Params, pixels_NYXC: jax.Array, window_N2: jax.Array) -> jax.Array:
    """Features of the frozen tower, half precision, of whole images as the gym would show them."""
    count, rows, columns = pixels_NYXC.shape[:3]
    whole_N4 = jnp.tile(jnp.array([[0.0, 0.0, columns, rows]]), (count, 1))
    size_N12 = jnp.tile(jnp.array([[[rows, columns]]], jnp.int32), (count, 1, 1))
    first_N = jnp.zeros((count,), jnp.int32)
    shown_NhwC = crop_resize(pixels_NYXC[:, None], first_N, whole_N4, size_N12, *model.image_size)
    views = apply_window(shown_NhwC, window_N2)
    return model.encode_patches(params, model.normalised(views)).astype(jnp.float16)


def features_of(run: Run, name: str, items: list[AtlasItem]) -> np.ndarray:
    """Tower features of all items, kept in OUT/features piece by piece: an interrupted run goes on behind the last."""
    identity = fingerprint([[item.id for item in items], run.config.images.view])
    folder = run.config.out / "features"
    folder.mkdir(parents=True, exist_ok=True)
    size = 16 * run.config.images.at_once
    pieces = [items[at : at + size] for at in range(0, len(items), size)]
    paths = [folder / f"{name}-{identity}-{number}.npy" for number in range(len(pieces))]
    done = sum(len(piece) for piece, path in zip(pieces, paths, strict=True) if path.exists())
    with run.progress.stage(f"features of {name}", total=len(items), done=done) as bar:
        for piece, path in zip(pieces, paths, strict=True):
            if path.exists():
                continue
            parts = []
            for at in range(0, len(piece), run.config.images.at_once):
                stop_if_asked(run, "while encoding images")
                some = piece[at : at + run.config.images.at_once]
                filled = some + [some[-1]] * (run.config.images.at_once - len(some))  # one shape, one program
                pixels = np.stack([item.pixels for item in filled])
                window = np.array([item.window for item in filled], np.float32)
                parts.append(np.asarray(encode(run.model, run.params, pixels, window))[: len(some)])
                bar.advance(len(some))
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.save(file, np.concatenate(parts))
            os.replace(part, path)
    return np.concatenate([np.load(path) for path in paths])


def stop_if_asked(run: Run, where: str) -> None:
    """Ctrl-C between two pieces of work."""
    if run.interrupts.requested:
        raise run.interrupts.stopped(f"stopped {where}")


def train_words(run: Run, items: list[AtlasItem], features: np.ndarray) -> TrainState:
    """Stage 1: no language model takes part but its embedding table."""
    stage, seed = run.config.words, run.config.seed
    optimizer = stage.optimizer.build()
    grid = [side // run.model.config.merge for side in run.model.grid]
    words = np.stack([words_in_place(item, *grid) for item in items])
    ids = [run.chat.tokenizer.encode(" " + word) if word else [] for word in WORDS]
    table_WE = word_table(run.params["decoder"]["embedding"], ids)
    weight_W = jnp.array([stage.marker_weight if word in ("left", "right") else 1.0 for word in WORDS])

    def batch(number: int) -> WordBatch:
        rows = np.random.default_rng([seed, 1, number]).integers(0, len(items), stage.batch)
        return WordBatch(features[rows], words[rows])

    return run_stage(
        Stage(
            name="words",
            steps=stage.optimizer.steps,
            identity=fingerprint([seed, run.config.images, stage, FAMILY_WEIGHTS]),
            step=partial(words_step, run.model, optimizer, table_WE, weight_W),
            batch=batch,
            shown=("loss", "named"),
            save_every=250,
        ),
        start({"connector": run.params["connector"]}, ("^connector",), optimizer, jax.random.key(seed)),
        run.config.out / "checkpoints",
        progress=run.progress,
        metrics=run.metrics,
        interrupts=run.interrupts,
        resume=run.config.resume,
    )


def train_lessons(run: Run, items: list[AtlasItem], features: np.ndarray, before: TrainState) -> TrainState:
    """Stage 2: captions and answers; gradients flow through the frozen language model into the connector."""
    stage, seed = run.config.lessons, run.config.seed
    optimizer = stage.optimizer.build()
    facts = [facts_of(item) for item in items]
    lessons = Lessons(facts, run.chat, run.model.tokens_per_image, END, stage.captions)

    def batch(number: int) -> LessonBatch:
        rng = np.random.default_rng([seed, 2, number])
        rows = rng.integers(0, len(items), stage.batch)
        return LessonBatch(features[rows], *lessons.batch(rows, rng))

    return run_stage(
        Stage(
            name="lessons",
            steps=stage.optimizer.steps,
            identity=fingerprint([seed, run.config.images, run.config.words, stage, FAMILY_WEIGHTS]),
            step=partial(lessons_step, run.model, optimizer, run.decoder),
            batch=batch,
            shown=("loss", "right"),
        ),
        start(before.params(), ("^connector",), optimizer, jax.random.key(seed)),
        run.config.out / "checkpoints",
        progress=run.progress,
        metrics=run.metrics,
        interrupts=run.interrupts,
        resume=run.config.resume,
    )


def probe(run: Run, condition: str, connector: Params, items: list[AtlasItem], features: np.ndarray) -> list[ProbeRow]:
    """The model's answers to the held-out questions of each task."""
    rows = []
    params = run.decoder | {"connector": connector}
    at_once = run.config.images.at_once
    with run.progress.stage(f"probe: {condition}", total=len(items)) as bar:
        for task in TASKS:
            chosen = np.array([index for index, item in enumerate(items) if item.family == task])
            options = items[chosen[0]].options
            truth = np.array([options.index(items[index].answer) for index in chosen])
            scores = []
            for at in range(0, len(chosen), at_once):
                stop_if_asked(run, f"in the probe of {condition}")
                some = np.resize(chosen[at : at + at_once], at_once)
                scores.append(scores_of(run, params, items[chosen[0]].question, options, features[some]))
                bar.advance(min(at_once, len(chosen) - at))
            rows.append(probe_row(condition, task, np.concatenate(scores)[: len(chosen)], truth, options))
    return rows


def scores_of(run: Run, params: Params, question: str, options: tuple[str, ...], patches: np.ndarray) -> np.ndarray:
    """Log-likelihood of the options of one question about several images: ``[N, J]``."""
    tokens, feature, valid = prompt_of(run, question, len(patches))
    ids = [run.chat.tokenizer.encode(option + END) for option in options]
    padded = np.array([one + [-1] * (max(map(len, ids)) - len(one)) for one in ids], np.int32)
    embeddings = run.model.connect(params, jnp.asarray(patches, jnp.float32))[:, None]
    return np.asarray(option_scores(run.model, params, tokens, feature, valid, embeddings, padded))


def prompt_of(run: Run, question: str, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same prompt for each of several images: tokens, features, validity ``[B, T]``."""
    prompt = run.chat.prompt(question, [run.model.tokens_per_image], system=SYSTEM)
    tokens, feature = (np.tile(np.array(part, np.int32), (rows, 1)) for part in (prompt.tokens, prompt.feature))
    return tokens, feature, np.ones(tokens.shape, bool)


def probed(run: Run, connectors: dict[str, Params], items: list[AtlasItem], features: np.ndarray) -> list[ProbeRow]:
    """Every condition of the table; finished ones are kept in OUT/probes.json."""
    path = run.config.out / "probes.json"
    identity = fingerprint([run.config.seed, run.config.split, run.config.images, run.config.words, run.config.lessons])
    kept = json.loads(path.read_text()) if path.exists() else {}
    cells: dict[str, Any] = kept.get("cells", {}) if kept.get("identity") == identity else {}
    for condition, connector in connectors.items():
        if condition not in cells:
            rows = probe(run, condition, connector, items, features)
            cells[condition] = [dataclasses.asdict(row) for row in rows]
            path.write_text(json.dumps({"identity": identity, "cells": cells}, indent=1))
    return [ProbeRow(**row) for condition in connectors for row in cells[condition]]


def write_captions(run: Run, connector: Params, items: list[AtlasItem], features: np.ndarray, count: int = 6) -> None:
    """What the model says of the first held-out images, beside what is true: to look at."""
    params = run.decoder | {"connector": connector}
    embeddings = run.model.connect(params, jnp.asarray(features[:count], jnp.float32))[:, None]
    tokens, feature, valid = prompt_of(run, CAPTION_PROMPT, len(embeddings))
    start_B = jnp.zeros((len(embeddings),), jnp.int32)
    positions, following = run.model.positions(start_B, jnp.asarray(valid), jnp.asarray(feature))
    batch = Batch(jnp.asarray(tokens), jnp.asarray(feature), embeddings, positions, jnp.asarray(valid), following)
    said, _ = greedy(run.model, params, batch, 40)
    lines = ["| item | true | the model |", "| --- | --- | --- |"]
    for item, ids in zip(items, np.asarray(said), strict=False):
        text = run.chat.tokenizer.decode(ids).split(END)[0].replace("\n", " ")
        lines.append(f"| {item.id} | {caption(facts_of(item))} | {text} |")
    (run.config.out / "captions.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def truncate_stale(config: SmolAlign) -> None:
    """Without `--resume` an unfinished stage starts over: drop its records and those of the stages behind it."""
    path = config.out / "metrics.jsonl"
    if config.resume or not path.exists():
        return
    reached: dict[str, int] = {}
    for record in read_metrics(path):
        reached[record["stage"]] = record["step"]
    for stage, end in (("words", config.words.optimizer.steps), ("lessons", config.lessons.optimizer.steps)):
        if reached.get(stage, 0) != end:
            truncate(path, 0, stage)
            return


def protocol_of(config: SmolAlign, seconds: float) -> list[str]:
    """What the numbers were measured with."""
    machine = f"{os.cpu_count()} CPU cores" if jax.devices()[0].platform == "cpu" else str(jax.devices())
    return [
        "Data set: packaged atlas (markers are drawn, implanted targets are called implanted); "
        f"split {config.split}: other brain template and other image regions than training.",
        "Scorer: the option with the highest log-likelihood behind the question, end of answer included; no tools.",
        f"Seed {config.seed}. 'random connector': the packaged model as it is. 'words in place': before any caption.",
        f"{config.images.train} training images of {config.images.view}² pixels, {config.words.optimizer.steps} and "
        f"{config.lessons.optimizer.steps} steps; {datetime.date.today().isoformat()}, {machine}, "
        f"jax {jax.__version__}; this run took {duration(seconds)}.",
    ]


def run_experiment(config: SmolAlign) -> None:
    """The whole experiment."""
    enable_compile_cache()
    config.out.mkdir(parents=True, exist_ok=True)
    folder = packaged_folder()
    view = (config.images.view, config.images.view)
    model, params = models.load(folder, image_size=view)
    truncate_stale(config)
    with Interrupts() as interrupts, Progress() as progress, MetricsLog(config.out / "metrics.jsonl") as metrics:
        began = progress.clock()
        run = Run(config, model, params, load_chat(folder), progress, interrupts, metrics)
        atlas, held_out = Atlas("train", seed=config.seed), Atlas(config.split)
        items = [atlas.item(*pair) for pair in atlas.plan(config.images.train, FAMILY_WEIGHTS)]
        asked = [
            held_out.item(*pair) for pair in held_out.plan(len(TASKS) * config.images.probe, dict.fromkeys(TASKS, 1.0))
        ]
        features, asked_features = features_of(run, "training", items), features_of(run, "probe", asked)
        words = train_words(run, items, features)
        connectors = {"random connector": params["connector"], "words in place": words.params()["connector"]}
        trained = train_lessons(run, items, features, words).params()["connector"]
        connectors["captions and questions"] = trained
        rows = probed(run, connectors, asked, asked_features)
        progress.note("writing the model")
        write_captions(run, trained, asked, asked_features)
        shutil.rmtree(config.out / "model", ignore_errors=True)
        save_for_view(model, params | {"connector": trained}, config.out / "model")
        seconds = progress.clock() - began
    draw_curves(read_metrics(config.out / "metrics.jsonl"), config.out / "curves.png", PANELS)
    print(write_probe_tables(config.out, rows, protocol_of(config, seconds)))
    print(f"The aligned model is in {config.out / 'model'}; captions.md shows what it says of held-out images.")


def main() -> int:
    config = tyro.cli(SmolAlign, description=__doc__)
    if config.preset == "short":
        config = shortened(config)
    try:
        run_experiment(config)
    except Interrupted as stop:
        print(f"\n{stop.args[0]}. Go on with:  python {' '.join([*sys.argv, '--resume'])}", file=sys.stderr)
        return stop.exit_code
    except (CheckpointError, MissingSource, NotFinite, ValueError, OSError) as error:
        print(f"smol_align: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
