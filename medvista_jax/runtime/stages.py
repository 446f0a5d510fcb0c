"""Running one stage of training: steps, progress, metrics, checkpoints, Ctrl-C and resume."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medvista_jax.runtime.checkpoints import Checkpoints
from medvista_jax.runtime.interrupt import Interrupts
from medvista_jax.runtime.metrics import MetricsLog
from medvista_jax.runtime.progress import Progress


class Interrupted(Exception):
    """Ctrl-C or SIGTERM between two steps; the state is saved. ``args[0]`` says where to go on."""


class NotFinite(RuntimeError):
    """A loss became NaN or infinite; the last checkpoint is intact."""


def fingerprint(config: Any) -> str:
    """Short hash of whatever decides a stage's result (dataclasses, dicts, numbers, strings)."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {"is": type(value).__name__, **{f.name: getattr(value, f.name) for f in dataclasses.fields(value)}}
        return str(value)

    return hashlib.sha256(json.dumps(config, default=plain, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass
class Stage:
    """One stage of a run.

    Attributes:
      name: of its folder, its metrics and its progress bar.
      steps: how many.
      identity: :func:`fingerprint` of all that decides the result; a checkpoint of another identity is not reused.
      step: ``(state, batch) -> (state, metrics)``, jitted, may donate the state.
      batch: ``step number -> batch``, a pure function, so that a resumed stage sees what it would have seen.
      shown: metrics behind the progress bar.
      save_every: steps between checkpoints.
    """

    name: str
    steps: int
    identity: str
    step: Callable[[Any, Any], tuple[Any, dict[str, Any]]]
    batch: Callable[[int], Any]
    shown: tuple[str, ...] = ("loss",)
    save_every: int = 50


def run_stage(
    stage: Stage,
    state: Any,
    folder: Path,
    *,
    progress: Progress,
    metrics: MetricsLog,
    interrupts: Interrupts,
    resume: bool,
) -> Any:
    """Run a stage to its end, or take it from its checkpoint.

    A finished stage of the same identity is reused. An unfinished one goes on where it was when ``resume`` is set, and
    starts over otherwise.

    Args:
      state: before the first step.
      folder: holds a folder of checkpoints for every stage.

    Raises:
      Interrupted: after saving.
      NotFinite: the loss is NaN or infinite.
    """
    with Checkpoints(folder / stage.name) as checkpoints:
        done, state = _find(stage, state, checkpoints, resume)
        if done == stage.steps:
            progress.note(f"[{stage.name}] reused: {stage.steps} steps were done before")
            return state
        with progress.stage(stage.name, total=stage.steps, done=done) as bar:
            pending: dict[str, Any] | None = None
            for number in range(done, stage.steps):
                state, values = stage.step(state, stage.batch(number))
                # Metrics of the step before: reading these would make the host wait for the device.
                _record(stage, number - 1, pending, metrics, bar)
                pending = values
                last = number + 1 == stage.steps
                if last or interrupts.requested or (number + 1) % stage.save_every == 0:
                    _record(stage, number, pending, metrics, bar)
                    pending = None
                    checkpoints.save(number + 1, state, {"identity": stage.identity, "stage": stage.name})
                if interrupts.requested and not last:
                    checkpoints.wait()
                    raise Interrupted(f"stopped in stage {stage.name} after step {number + 1} of {stage.steps}")
    return state


def _find(stage: Stage, state: Any, checkpoints: Checkpoints, resume: bool) -> tuple[int, Any]:
    """Steps done and the state after them."""
    if checkpoints.latest() is None:
        return 0, state
    metadata = checkpoints.metadata()
    if metadata.get("identity") != stage.identity:
        return 0, state
    latest = checkpoints.latest()
    if latest == stage.steps or resume:
        done, state, _ = checkpoints.restore(state)
        # Orbax hands out committed arrays; a fresh run's are not, and a jitted step would compile again for them.
        return done, jax.tree.map(_uncommitted, state)
    return 0, state


def _uncommitted(leaf: Any) -> Any:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(np.asarray(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return jax.numpy.asarray(np.asarray(leaf))


def _record(stage: Stage, number: int, values: dict[str, Any] | None, metrics: MetricsLog, bar: Any) -> None:
    """Write a step's metrics and move the bar."""
    if values is None:
        return
    host = {name: float(value) for name, value in values.items()}
    metrics.write(stage.name, number + 1, host)
    if not math.isfinite(host.get("loss", 0.0)):
        raise NotFinite(
            f"the loss of stage {stage.name} is {host['loss']} at step {number + 1}; "
            "a smaller learning rate or a tighter gradient clip may help. The last checkpoint is intact."
        )
    bar.advance(**{name: host[name] for name in stage.shown if name in host})
