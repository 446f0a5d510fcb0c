"""One process of a training run over several: supervised steps of the tests' tiny model, sharded over data and fsdp.

    MEDVISTA_COORDINATOR=… MEDVISTA_PROCESSES=2 MEDVISTA_PROCESS=0 python -m tests.runtime.hosts.train FOLDER

Process 0 writes FOLDER/metrics.jsonl and, at the end, FOLDER/params.npz. A run goes on from the newest checkpoint of
FOLDER/checkpoints. The update is the real one on trajectories that are given; an update that also plays them takes
half a minute to compile.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from medvista_jax.core.types import Trajectory, Turns, View, Views
from medvista_jax.learning.sft import SFTConfig, sft_update
from medvista_jax.learning.state import TrainState, start
from medvista_jax.models.medvista_tiny import MedVistaTiny
from medvista_jax.runtime.hosts import host_batch, is_first, spread, start_hosts
from medvista_jax.runtime.interrupt import Interrupted, Interrupts
from medvista_jax.runtime.mesh import make_mesh, parse_mesh
from medvista_jax.runtime.metrics import MetricsLog
from medvista_jax.runtime.progress import Progress
from medvista_jax.runtime.sharding import tree_shardings
from medvista_jax.runtime.stages import Stage, run_stage
from tests import tiny
from tests.runtime.hosts.launch import die_with_parent

ROWS, SLOTS = 4, 40
STEPS = 10
SILENCE = 4.0
RULES = ((r"(kernel|embedding)$", PartitionSpec("fsdp")),)
CONFIG = SFTConfig(buckets=(), chunk=ROWS)
# One layer of the tiny model: every process but the first compiles anew, JAX's cache holds the first one's programs.
LAYER = dataclasses.replace(tiny.MODEL.config.decoder, layers=1)
MODEL = MedVistaTiny(dataclasses.replace(tiny.MODEL.config, decoder=LAYER))


def load(step: int, rows: np.ndarray):
    """Trajectories and their pixels: a function of the step and the row."""
    parts = [row_of(step, int(row)) for row in rows]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def row_of(step: int, row: int) -> tuple[Trajectory, np.ndarray]:
    """One trajectory: an image, then random ids, of which every row samples another share."""
    rng = np.random.default_rng((step, row))
    image = MODEL.tokens_per_image
    length = int(rng.integers(image + 4, SLOTS))
    valid_S = np.arange(SLOTS) < length
    feature_S = np.where(np.arange(SLOTS) < image, np.arange(SLOTS), -1).astype(np.int32)
    sampled_S = valid_S & (feature_S < 0) & (rng.random(SLOTS) < 0.3 + 0.1 * row)
    zero_I, zero_R, nothing_S = np.zeros(1, np.int32), np.zeros(2, np.int32), np.full(SLOTS, -1, np.int32)
    trajectory = Trajectory(
        tokens_BS=rng.integers(0, tiny.VOCAB, SLOTS).astype(np.int32),
        valid_BS=valid_S,
        sampled_BS=sampled_S,
        feature_BS=feature_S,
        positions_BSZ=np.arange(SLOTS, dtype=np.int32)[:, None],
        turn_BS=nothing_S,
        logprobs_BS=np.zeros(SLOTS, np.float32),
        allowed_BS=nothing_S,
        features_BILE=None,
        views=Views(View(*[zero_I] * len(dataclasses.fields(View))), np.int32(1)),
        turns=Turns(*[zero_R] * len(dataclasses.fields(Turns))),
        **dict.fromkeys(("turns_B", "calls_B", "answer_BN", "answer_length_B", "truncated_B")),
    )
    pixels_IhwC = rng.integers(0, 256, (1, *MODEL.image_size, 1)).astype(np.uint8)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], (trajectory, pixels_IhwC))


def initial_state() -> TrainState:
    params = tiny.params()
    decoder = {name: leaves for name, leaves in params["decoder"].items() if name != "layer_1"}
    return start(params | {"decoder": decoder}, ["^decoder"], tiny.optimizer(), jax.random.key(0))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mesh", default="data=-1")
    parser.add_argument("--signal", default="", help="STEP:PROCESS:NUMBER, sent to itself before the step; * for all")
    args = parser.parse_args()
    mesh = make_mesh(parse_mesh(args.mesh))
    replicated = NamedSharding(mesh, PartitionSpec())
    state = initial_state()
    # The rules know no typed keys; the step counter, a scalar as well, stands in.
    shardings = tree_shardings(RULES, state.replace(key=state.step), mesh)
    update = jax.jit(
        lambda state, batch: sft_update(MODEL, tiny.optimizer(), CONFIG, state, *batch),
        donate_argnums=0,
        out_shardings=(shardings, replicated),
    )

    def batch(number: int):
        obey(args.signal, number)
        return host_batch(load, number, ROWS, mesh)

    stage = Stage("sft", STEPS, "of the test", update, batch, save_every=2)
    with (
        Interrupts() as interrupts,
        Progress(live=False) as progress,
        MetricsLog(args.folder / "metrics.jsonl", is_first()) as metrics,
    ):
        try:
            state = run_stage(
                stage,
                spread(state, shardings),
                args.folder / "checkpoints",
                progress=progress,
                metrics=metrics,
                interrupts=interrupts,
                resume=True,
            )
        except Interrupted as stop:
            return stop.exit_code
    whole = jax.jit(lambda tree: tree, out_shardings=replicated)(state.trainable)
    if is_first():
        np.savez(args.folder / "params.npz", **{path: np.asarray(leaf) for path, leaf in whole.items()})
    return 0


def obey(order: str, step: int) -> None:
    when, _, rest = order.partition(":")
    who, _, number = rest.partition(":")
    if when == str(step) and who in ("*", str(jax.process_index())):
        os.kill(os.getpid(), int(number))


if __name__ == "__main__":
    die_with_parent()
    jax.config.update("jax_disable_most_optimizations", True)
    with start_hosts(silence_seconds=SILENCE, start_seconds=60):
        sys.exit(main())
