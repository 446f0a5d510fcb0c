"""A training stage that takes milliseconds and needs all that a checkpoint holds: optimizer, PRNG key, a data iterator
whose order is its own, a queue of what the iterator put aside, metrics."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.learning.state import OptimizerConfig, TrainState, apply_gradients, start
from medvista_jax.runtime.interrupt import Interrupts
from medvista_jax.runtime.metrics import MetricsLog
from medvista_jax.runtime.progress import Progress
from medvista_jax.runtime.stages import Stage, run_stage

BATCH = 4
OPTIMIZER = OptimizerConfig(learning_rate=0.05, steps=500).build()


class Draws:
    """Numbers below 100 from a generator that goes on; its state is bytes, as that of grain's data loader."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)

    def __next__(self) -> np.ndarray:
        return self.rng.integers(0, 100, BATCH)

    def get_state(self) -> bytes:
        return json.dumps(self.rng.bit_generator.state).encode()

    def set_state(self, state: bytes) -> None:
        self.rng.bit_generator.state = json.loads(state.decode())


class Queue:
    """Draws above 60 wait here for a later batch; its state is JSON."""

    def __init__(self) -> None:
        self.waiting: list[int] = []

    def get_state(self) -> list[int]:
        return self.waiting

    def set_state(self, state: list[int]) -> None:
        self.waiting = list(state)


@jax.jit
def _step(state: TrainState, x_BN: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
    noise = jax.random.normal(jax.random.fold_in(state.key, state.step), x_BN.shape)

    def loss_of(trainable: dict[str, jax.Array]) -> jax.Array:
        hidden = jnp.tanh((x_BN + 0.1 * noise) @ trainable["layer/kernel"]) @ trainable["head/kernel"]
        return jnp.mean((hidden[:, 0] - jnp.sin(jnp.sum(x_BN, axis=1))) ** 2)

    loss, gradients = jax.value_and_grad(loss_of)(state.trainable)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients)))
    return apply_gradients(state, gradients, OPTIMIZER), {"loss": loss, "gradient_norm": norm}


# Donation as in the real steps: what a step got is gone after it.
step = jax.jit(_step.__wrapped__, donate_argnums=0)


def initial() -> TrainState:
    first, second = jax.random.split(jax.random.key(1))
    params = {
        "layer": {"kernel": jax.random.normal(first, (6, 8)) / 2},
        "head": {"kernel": jax.random.normal(second, (8, 1)) / 2},
    }
    return start(params, ("kernel",), OPTIMIZER, jax.random.key(7))


def stage(steps: int, **changed: Any) -> Stage:
    """A fresh stage; its batches are a function of all draws so far."""
    draws, queue = Draws(), Queue()

    def batch(number: int) -> np.ndarray:
        drawn = next(draws).tolist()
        used = [number for number in drawn if number <= 60]
        while len(used) < BATCH:
            used.append(queue.waiting.pop(0) if queue.waiting else 0)
        queue.waiting += [number for number in drawn if number > 60]
        return np.cos(np.outer(used, np.arange(1, 7))).astype(np.float32)

    whole = Stage("small", steps, "of the test", step, batch, save_every=5, carried={"data": draws, "queue": queue})
    return dataclasses.replace(whole, **changed)


def train(
    out: Path, one: Stage, resume: bool = False, state: Any = None, writes: bool = True
) -> tuple[TrainState, str]:
    """The state at the end, and what was said."""
    said = io.StringIO()
    with (
        Interrupts() as interrupts,
        Progress(stream=said, live=False) as progress,
        MetricsLog(out / "metrics.jsonl", writes) as metrics,
    ):
        state = run_stage(
            one,
            initial() if state is None else state,
            out / "checkpoints",
            progress=progress,
            metrics=metrics,
            interrupts=interrupts,
            resume=resume,
        )
    return state, said.getvalue()


def life(out: Path, steps: int) -> None:
    """One life of a process that goes on where the one before it was killed; at the end the parameters are left."""
    state, _ = train(out, stage(steps), resume=True)
    part = out / "part.npz"
    leaves = jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))
    np.savez(part, *[np.asarray(leaf) for leaf in leaves])
    part.rename(out / "end.npz")
