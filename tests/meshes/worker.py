"""Rollout and update of one family on eight emulated devices, on every mesh; what differs from one device is printed.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.meshes.worker qwen3_vl
"""

from __future__ import annotations

import dataclasses
import json
import sys

import jax
import numpy as np
import optax

from medvista_jax.core.types import AnswerKey, Array, Trajectory
from medvista_jax.learning.grpo import GRPOConfig, grpo_update
from medvista_jax.learning.placement import place_rows, place_state, policy_params, state_shardings
from medvista_jax.learning.rewards import PRESETS, RewardTerms, correctness
from medvista_jax.learning.state import start
from medvista_jax.rollout.loop import rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.mesh import AXES, make_mesh
from tests.meshes import families

SHAPES = ((8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8))
OPTIMIZER = optax.sgd(0.1)  # Adam's first step is the sign of a gradient, which may be 0


def even_ids(trajectory: Trajectory, key: AnswerKey) -> RewardTerms:
    """The share of even ids among those sampled: rows of a group differ in it."""
    even_BS = trajectory.sampled_BS & (trajectory.tokens_BS % 2 == 0)
    share_B = even_BS.sum(1) / trajectory.sampled_BS.sum(1)
    return RewardTerms(total_B=share_B, correct_B=correctness(trajectory, key), terms={"even": share_B})


PRESETS["even_ids"] = even_ids
CONFIG = GRPOConfig(group=families.GROUP, reward="even_ids", buckets=(), chunk=8)


def played_and_learnt(
    model, temperature: float, mesh, config: GRPOConfig = CONFIG
) -> tuple[Trajectory, dict[str, Array], dict[str, Array]]:
    """A rollout in which a row of every group zooms, and the update that follows, as one program."""
    environment, (question, key, script) = families.environment_of(model), families.ask(model)
    state = start(families.draw(model), ("^decoder",), OPTIMIZER, jax.random.key(0))
    if mesh is not None:
        state = place_state(model, state)
        question, key, script = place_rows((question, key, script))

    @jax.jit
    def step(state, question, key, script, sampling):
        params, random = policy_params(model, state), jax.random.key(1)
        trajectory = rollout(model, params, environment, question, random, families.GROUP, sampling, script)
        return trajectory, grpo_update(model, OPTIMIZER, config, environment, state, trajectory, key, sampling)

    trajectory, (state, metrics) = step(state, question, key, script, Sampling.at(temperature))
    if mesh is not None:
        wanted = state_shardings(model, state, mesh)
        moved = [path for path, leaf in state.trainable.items() if leaf.sharding != wanted.trainable[path]]
        assert not moved, f"parameters that the step laid out otherwise: {moved[:3]}"
    return trajectory, state.trainable, metrics


def relative(a: Array, b: Array) -> float:
    """The largest difference as a part of the largest value."""
    a, b = np.asarray(a), np.asarray(b)
    return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-12))


def difference(ours, theirs) -> dict[str, float]:
    """What a mesh changed: tokens that differ, and the largest relative differences."""
    (t, params, metrics), (t0, params0, metrics0) = ours, theirs
    return {
        "tokens": int((np.asarray(t.tokens_BS) != np.asarray(t0.tokens_BS)).sum()),
        "logprobs": float(np.abs(np.asarray(t.logprobs_BS) - np.asarray(t0.logprobs_BS)).max()),
        "loss": abs(float(metrics["loss"]) - float(metrics0["loss"])),
        "grad_norm": relative(metrics["grad_norm"], metrics0["grad_norm"]),
        "params": max(relative(params[path], params0[path]) for path in params0),
    }


def main(family: str) -> None:
    jax.config.update("jax_disable_most_optimizations", True)
    model = families.FAMILIES[family]
    alone = played_and_learnt(model, 0.0, None)
    before = families.draw(model)["decoder"]["embedding"]
    moved = float(np.abs(np.asarray(alone[1]["decoder/embedding"]) - before).max())
    print(json.dumps({"alone": True, "moved": moved, "views": int(alone[0].views.count_B.sum())}))
    for shape in SHAPES:
        mesh = make_mesh(dict(zip(AXES, shape, strict=True)))
        with jax.set_mesh(mesh):
            # Where every axis is cut, the layers are scanned too.
            config = dataclasses.replace(CONFIG, scan_layers=shape == (2, 2, 2))
            ours = played_and_learnt(model, 0.0, mesh, config)
        print(json.dumps({"shape": shape, **difference(ours, alone)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
