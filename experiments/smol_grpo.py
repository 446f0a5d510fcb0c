"""Teach the packaged 157M model to look twice: connector, SFT, then GRPO with LoRA; held-out accuracy as it rises.

    python experiments/smol_align.py                     # first: makes runs/smol_align/model
    python experiments/smol_grpo.py                      # one seed
    python experiments/smol_grpo.py --preset short       # every stage, a few steps each: a smoke test
    python experiments/smol_grpo.py --resume             # go on after Ctrl-C or a kill

The question: how do the implanted stripes run? The whole image is shown too small to tell; the tool ``look`` enlarges
the surroundings of one of five bright spots. The teacher of the SFT stage answers half of the questions without a look,
and two in five of its looks are at a wrong spot; GRPO is paid for well-formed episodes and right answers only.

Writes OUT/table.md, table.json, curves.png, metrics.jsonl, report.html, and OUT/adapters (PEFT's layout) beside
OUT/model, the hub folder with the connector that they belong to. `experiments/export.py OUT FOLDER` merges the two and
writes a model card from OUT/run.json.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from smol_grpo_setting import TURNS, Run, SmolGRPO, load, parents, shortened, weights_of
from smol_grpo_table import cards_of, curve_point, measure, measured, save, write_results

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.types import Params
from medvista_jax.data.controls import encode_script
from medvista_jax.data.item import AtlasItem
from medvista_jax.data.questions import QuestionPool
from medvista_jax.data.spots import WORDS, teach, view_around, words_of_view
from medvista_jax.evaluation import tables
from medvista_jax.evaluation.statistics import wilson_interval
from medvista_jax.learning.align import WordBatch, word_table, words_step
from medvista_jax.learning.grpo import GRPOConfig, grpo_step
from medvista_jax.learning.sft import SFTConfig, sft_step
from medvista_jax.learning.state import FlatParams, TrainState, start
from medvista_jax.models.lora import TRAINABLE
from medvista_jax.models.medvista_smol import MedVistaSmol
from medvista_jax.models.names import flatten
from medvista_jax.models.tensor_files import BadCheckpoint
from medvista_jax.rollout.loop import Script
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.checkpoints import CheckpointError
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.runtime.interrupt import Interrupts
from medvista_jax.runtime.metrics import MetricsLog, read_metrics, truncate
from medvista_jax.runtime.profile import Profile
from medvista_jax.runtime.progress import Progress
from medvista_jax.runtime.stages import Interrupted, NotFinite, Stage, fingerprint
from medvista_jax.runtime.wheels import MissingSource
from medvista_jax.tools.resample import apply_window, crop_resize


@partial(jax.jit, static_argnames=("model", "side"))
def encode(
    model: MedVistaSmol, vision: Params, pixels_NYXC: jax.Array, box_N4: jax.Array, window_N2: jax.Array, side: int
) -> jax.Array:
    """Features of the frozen tower, half precision, of boxes (pixels) of images as the gym would show them."""
    count, rows, columns = pixels_NYXC.shape[:3]
    size_N12 = jnp.tile(jnp.array([[[rows, columns]]], jnp.int32), (count, 1, 1))
    shown_NhwC = crop_resize(pixels_NYXC[:, None], jnp.zeros((count,), jnp.int32), box_N4, size_N12, side, side)
    views = model.normalised(apply_window(shown_NhwC, window_N2))
    return model.encode_patches({"vision": vision}, views).astype(jnp.float16)


View = tuple[AtlasItem, tuple[int, int, int, int]]
"""An item and a box of its image, 0…1000."""


def views_of(run: Run, items: Sequence[AtlasItem]) -> list[View]:
    """Of each item what ``look`` shows of its target, give or take a few pixels, and of any place."""
    rng = np.random.default_rng([run.config.seed, 4])
    views = []
    for item in items:
        x1, y1, x2, y2 = item.targets[0]
        off_x, off_y = rng.uniform(-20, 20, 2)
        views.append((item, view_around((x1 + x2) / 2 + off_x, (y1 + y2) / 2 + off_y)))
        views.append((item, view_around(*rng.uniform(0, FRAME, 2))))
    return views


def features_of(run: Run, views: list[View]) -> np.ndarray:
    """Tower features of views: float16 ``[N, rows, columns, E]``."""
    vision, at_once, found = run.params({})["vision"], run.config.items.at_once, []
    with run.progress.stage("features", total=len(views)) as bar:
        for at in range(0, len(views), at_once):
            run.stop_if_asked("while encoding images")
            some = views[at : at + at_once]
            filled = some + [some[-1]] * (at_once - len(some))  # one shape, one program
            pixels = np.stack([item.pixels for item, _ in filled])
            box = np.array([box for _, box in filled], np.float32) * (pixels.shape[1] / FRAME)
            window = np.array([item.window for item, _ in filled], np.float32)
            found.append(np.asarray(encode(run.model, vision, pixels, box, window, run.config.view))[: len(some)])
            bar.advance(len(some))
    return np.concatenate(found)


def train_words(run: Run, pool: QuestionPool, connector: Params) -> TrainState:
    """Stage 1: no language model takes part but its embedding table."""
    stage, seed = run.config.words, run.config.seed
    optimizer = stage.optimizer.build()
    views = views_of(run, pool.items[: stage.images])
    grid = [side // run.model.config.merge for side in run.model.grid]
    words = np.stack([words_of_view(item, box, *grid) for item, box in views])
    ids = [run.tokenizer.encode(word) if word else [] for word in WORDS]
    table_WE = word_table(run.base["decoder/embedding"], ids)
    weight_W = jnp.ones(len(WORDS))
    kept: list[np.ndarray] = []

    def batch(number: int) -> WordBatch:
        if not kept:  # a finished stage needs no features
            kept.append(features_of(run, views))
        rows = np.random.default_rng([seed, 1, number]).integers(0, len(views), stage.batch)
        return WordBatch(kept[0][rows], words[rows])

    return run.stage(
        Stage(
            name="words",
            steps=stage.optimizer.steps,
            identity=fingerprint([seed, run.config.view, stage, run.config.items.at_once, weights_of(run.config)]),
            step=partial(words_step, run.model, optimizer, table_WE, weight_W),
            batch=batch,
            shown=("loss", "named"),
            save_every=250,
        ),
        start({"connector": connector}, ("^connector",), optimizer, jax.random.key(seed)),
    )


def train_sft(run: Run, pool: QuestionPool, leaves: FlatParams) -> TrainState:
    """Stage 2: adapters and connector learn the teacher's trajectories."""
    stage, seed, teacher = run.config.sft, run.config.seed, run.config.teacher
    optimizer, static = stage.optimizer.build(), SFTConfig(run.buckets(pool), stage.chunk)

    def batch(number: int):
        rng = np.random.default_rng([seed, 2, number])
        rows = rng.integers(0, len(pool), stage.batch)
        offered = rng.random(stage.batch) >= stage.without_tools
        question, _ = pool.batch(rows, offered)
        texts = [teach(pool.items[row], rng, teacher, bool(on)) for row, on in zip(rows, offered, strict=True)]
        return question, Script(*encode_script(texts, run.tokenizer, TURNS, run.turn_tokens))

    return run.stage(
        Stage(
            name="sft",
            steps=stage.optimizer.steps,
            identity=fingerprint([*parents(run.config), stage, teacher]),
            step=run.lending(
                lambda state, batch: sft_step(run.model, optimizer, static, run.environment, state, *batch)
            ),
            batch=batch,
            save_every=25,
        ),
        start(leaves, ("^connector", TRAINABLE), optimizer, jax.random.key(seed + 1)),
    )


def train_grpo(run: Run, pool: QuestionPool, held_out: QuestionPool, before: TrainState) -> TrainState:
    """Stage 3: the adapters learn from their own episodes; every few steps the held-out items are asked."""
    stage, seed = run.config.grpo, run.config.seed
    optimizer = stage.optimizer.build()
    static = GRPOConfig(group=stage.group, buckets=run.buckets(pool), chunk=stage.chunk)

    def batch(number: int):
        rows = np.random.default_rng([seed, 3, number]).integers(0, len(pool), stage.prompts)
        return number, pool.batch(rows)

    @run.lending
    def update(state: TrainState, batch):
        sampling = Sampling.at(stage.temperature)
        return grpo_step(run.model, optimizer, static, run.environment, state, *batch, sampling)

    def step(state: TrainState, numbered):
        number, batch = numbered
        seen = asked(run, held_out, {**state.trainable, **state.frozen}) if number % stage.every == 0 else {}
        state, metrics = update(state, batch)
        return state, metrics | seen

    return run.stage(
        Stage(
            name="grpo",
            steps=stage.optimizer.steps,
            identity=fingerprint([*parents(run.config), run.config.sft, run.config.teacher, stage, run.config.items]),
            step=step,
            batch=batch,
            shown=("reward", "accuracy", "calls_per_question"),
            save_every=10,
        ),
        start({**before.trainable, **before.frozen}, (TRAINABLE,), optimizer, jax.random.key(seed + 2)),
        profile=Profile(run.config.out / "profile") if run.config.profile else None,
    )


def asked(run: Run, pool: QuestionPool, leaves: FlatParams) -> dict[str, float]:
    """A point of the curve, recorded with the step that follows: a policy on the first held-out items."""
    seen: dict[str, float] = {}
    for name in ("greedy", "sampled"):
        result = measure(run, pool, leaves, name, items=run.config.items.curve)
        right, n = int(result.correct.sum()), len(result.correct)
        seen |= curve_point(name, right / n, wilson_interval(right, n), float(result.calls.mean()))
    return seen


def truncate_stale(config: SmolGRPO) -> None:
    """Without `--resume` an unfinished stage starts over: drop its records and those of the stages behind it."""
    path = config.out / "metrics.jsonl"
    if config.resume or not path.exists():
        return
    reached: dict[str, int] = {}
    for record in read_metrics(path):
        reached[record["stage"]] = record["step"]
    for name in ("words", "sft", "grpo"):
        if reached.get(name, 0) != getattr(config, name).optimizer.steps:
            truncate(path, 0, name)
            return


def run_experiment(config: SmolGRPO) -> None:
    """The whole experiment."""
    enable_compile_cache()
    model, params = load(config)
    config.out.mkdir(parents=True, exist_ok=True)
    truncate_stale(config)
    flat = flatten(params)
    learnt = {name: leaf for name, leaf in flat.items() if name.startswith("connector/") or re.search(TRAINABLE, name)}
    base = {name: leaf for name, leaf in flat.items() if name not in learnt}
    with Interrupts() as interrupts, Progress() as progress, MetricsLog(config.out / "metrics.jsonl") as metrics:
        began = progress.clock()
        run = Run(config, model, base, progress, interrupts, metrics)
        progress.note("drawing questions")
        pool = run.pool("train", config.items.train, config.seed)
        held_out = run.pool(config.split, config.items.held_out)
        policies = {"aligned": learnt}
        words = train_words(run, pool, params["connector"])
        taught = train_sft(run, pool, {**learnt, **words.trainable})
        policies["sft"] = {**taught.trainable, **taught.frozen}
        trained = train_grpo(run, pool, held_out, taught)
        policies["sft_grpo"] = {**trained.trainable, **trained.frozen}
        rows = measured(run, held_out, policies)
        progress.note("writing the adapters and the report")
        save(run, policies["sft_grpo"])
        cards = cards_of(run, held_out, policies)
        seconds = progress.clock() - began
    protocol = write_results(run, rows, cards, seconds)
    tables.print_table(rows, protocol)
    print(f"\nLook at {config.out / 'report.html'} (trajectories), curves.png and table.md beside it.")


def main() -> int:
    config = tyro.cli(SmolGRPO, description=__doc__)
    if config.preset == "short":
        config = shortened(config)
    try:
        run_experiment(config)
    except Interrupted as stop:
        print(f"\n{stop.args[0]}. Go on with:  python {' '.join([*sys.argv, '--resume'])}", file=sys.stderr)
        return stop.exit_code
    except (BadCheckpoint, CheckpointError, MissingSource, NotFinite, ValueError, OSError) as error:
        print(f"smol_grpo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
