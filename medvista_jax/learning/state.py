"""Training state: what is trained, what is frozen, the optimizer's memory and the random key."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import jax
import optax
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict

from medvista_jax.core.types import Array, Params
from medvista_jax.runtime.finite import watch_gradients

FlatParams = dict[str, Array]


@struct.dataclass
class TrainState:
    """Donated to every step.

    Attributes:
      trainable, frozen: flat ``{"path/to/leaf": array}`` halves of the parameters.
      optimizer: optax state over ``trainable``.
      step: int32 updates done.
      key: PRNG key of the run; step ``n`` uses ``fold_in(key, n)``.
    """

    trainable: FlatParams
    frozen: FlatParams
    optimizer: optax.OptState
    step: Array
    key: Array

    def params(self) -> Params:
        """The nested parameters that the model reads."""
        return join(self.trainable, self.frozen)


def join(trainable: FlatParams, frozen: FlatParams) -> Params:
    """Nested parameters from the two halves."""
    return unflatten_dict({**trainable, **frozen}, sep="/")


def split(params: Params, trainable: Sequence[str]) -> tuple[FlatParams, FlatParams]:
    """Halves by regular expressions that are searched in ``path/to/leaf``.

    Raises:
      ValueError: an expression matches no parameter.
    """
    flat = flatten_dict(params, sep="/")
    for pattern in trainable:
        if not any(re.search(pattern, path) for path in flat):
            tops = sorted({path.split("/")[0] for path in flat})
            raise ValueError(f"trainable pattern {pattern!r} matches no parameter; the tree has {', '.join(tops)}")
    chosen = {path: leaf for path, leaf in flat.items() if any(re.search(p, path) for p in trainable)}
    return chosen, {path: leaf for path, leaf in flat.items() if path not in chosen}


def start(params: Params, trainable: Sequence[str], optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    """A state before the first step. Buffers are copied, since steps donate them."""
    moving, still = split(jax.tree.map(lambda x: x.copy(), params), trainable)
    return TrainState(
        trainable=moving,
        frozen=still,
        optimizer=optimizer.init(moving),
        step=jax.numpy.zeros((), jax.numpy.int32),
        key=key.copy(),
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay to ``final`` of the peak, gradients clipped by their global norm."""

    learning_rate: float = 1e-3
    steps: int = 100
    warmup: float = 0.03
    final: float = 0.1
    b2: float = 0.99
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    def build(self) -> optax.GradientTransformation:
        warmup = max(1, round(self.warmup * self.steps))
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, warmup, max(self.steps, warmup + 1), self.final * self.learning_rate
        )
        return optax.chain(
            watch_gradients(),
            optax.clip_by_global_norm(self.clip_norm),
            optax.adamw(schedule, b2=self.b2, weight_decay=self.weight_decay),
        )


def apply_gradients(state: TrainState, gradients: FlatParams, optimizer: optax.GradientTransformation) -> TrainState:
    """One update."""
    updates, memory = optimizer.update(gradients, state.optimizer, state.trainable)
    return state.replace(trainable=optax.apply_updates(state.trainable, updates), optimizer=memory, step=state.step + 1)
