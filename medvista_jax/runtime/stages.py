"""Running one stage of training: steps, progress, metrics, checkpoints, Ctrl-C, pre-emption and resume to the bit."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from medvista_jax.runtime.checkpoints import CheckpointError, Checkpoints
from medvista_jax.runtime.disk import DiskError, is_full, require_room
from medvista_jax.runtime.finite import FiniteCheck, NotFinite, listed
from medvista_jax.runtime.interrupt import Interrupted, Interrupts
from medvista_jax.runtime.leaves import is_key
from medvista_jax.runtime.metrics import MetricsLog
from medvista_jax.runtime.profile import Profile
from medvista_jax.runtime.progress import Progress
from medvista_jax.runtime.vote import StopVote

__all__ = ["Interrupted", "NotFinite", "Stage", "Stateful", "fingerprint", "run_stage"]


class Stateful(Protocol):
    """What lives on the host and decides what comes next: a data iterator, a queue of filtered prompts.

    The protocol of grain's iterators, which fit as they are. A state is bytes or JSON; ``set_state`` on a fresh object
    makes it go on as the one did that gave the state.
    """

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


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
      batch: ``step number -> batch``: a pure function, or one that also draws from what ``carried`` holds, as
        ``lambda number: next(iterator)`` with ``carried={"data": iterator}``. Called once a step, in order.
      shown: metrics behind the progress bar.
      save_every: steps between checkpoints.
      keep: checkpoints that stay.
      carried: what else a checkpoint holds, by name: host state that a resumed stage needs to see what it would have
        seen. Every process keeps its own.
      finite: metrics that stop the run when they are NaN or infinite; others may be.
    """

    name: str
    steps: int
    identity: str
    step: Callable[[Any, Any], tuple[Any, dict[str, Any]]]
    batch: Callable[[int], Any]
    shown: tuple[str, ...] = ("loss",)
    save_every: int = 50
    keep: int = 2
    carried: Mapping[str, Stateful] = dataclasses.field(default_factory=dict)
    finite: tuple[str, ...] = ("loss", "gradient_norm", "grad_norm")


def run_stage(
    stage: Stage,
    state: Any,
    folder: Path,
    *,
    progress: Progress,
    metrics: MetricsLog,
    interrupts: Interrupts,
    resume: bool,
    profile: Profile | None = None,
) -> Any:
    """Run a stage to its end, or take it from its checkpoint.

    A finished stage of the same identity is reused. An unfinished one goes on where it was when ``resume`` is set, and
    starts over otherwise. A resumed stage ends with the parameters and the metrics of an unbroken one, bit for bit.
    Several processes call it together; a signal to one of them stops all after the same step.

    Args:
      state: before the first step.
      folder: holds a folder of checkpoints for every stage.
      profile: which of the steps that are still to be done are traced; none by default.

    Raises:
      Interrupted: after saving.
      NotFinite: a step gave NaN or infinite values; none of them is in a checkpoint.
      CheckpointError: every checkpoint is damaged, or they do not fit the state.
      DiskError: the folder cannot be written, the checkpoints will not fit, or the disk became full.
    """
    with Checkpoints(folder / stage.name, stage.keep, progress.note) as checkpoints:
        done, state, records = _find(stage, state, checkpoints, resume)
        if done == stage.steps:
            progress.note(f"[{stage.name}] reused: {stage.steps} steps were done before")
            return state
        if metrics.rewind(stage.name, records) < records:
            progress.note(f"[{stage.name}] {metrics.path} has lost records of steps before {done}")
        copies = min(stage.keep + 1, math.ceil((stage.steps - done) / stage.save_every))
        require_room(checkpoints.folder, _nbytes(state), copies)
        with progress.stage(stage.name, total=stage.steps, done=done) as bar:
            running = _Running(stage, checkpoints, metrics, interrupts, bar)
            return running.run(state, done, _Traced(profile, progress) if profile else None)


class _Traced:
    """Begins and ends a profile at its steps; those that are left where the stage ends before."""

    def __init__(self, profile: Profile, progress: Progress) -> None:
        self.profile, self.progress = profile, progress
        self.running = 0

    def before(self, number: int) -> None:
        if number == self.profile.skip:
            self.profile.begin()
            self.running = 1

    def after(self, number: int, result: Any, last: bool) -> None:
        if not self.running or (self.running < self.profile.steps and not last):
            self.running += self.running > 0
            return
        spent = self.profile.end(result, self.running)
        self.running = 0
        whole = max(sum(spent.values()), 1e-12)
        shares = ", ".join(f"{scope} {100 * seconds / whole:.0f} %" for scope, seconds in spent.items())
        folder = self.profile.folder
        self.progress.note(f"a step by its parts: {shares}. Look at the trace: tensorboard --logdir {folder}")


class _Running:
    """The loop of one stage. Metrics are read one step late, so that the host does not wait for the device; whatever
    is not finite is therefore noticed one step late too, and before anything is saved."""

    def __init__(
        self, stage: Stage, checkpoints: Checkpoints, metrics: MetricsLog, interrupts: Interrupts, bar: Any
    ) -> None:
        self.stage, self.checkpoints, self.metrics = stage, checkpoints, metrics
        self.interrupts, self.bar = interrupts, bar

    def run(self, state: Any, done: int, traced: _Traced | None) -> Any:
        """From ``done`` steps to the end."""
        stage = self.stage
        check, vote = FiniteCheck(state), StopVote()
        pending: dict[str, Any] | None = None
        for number in range(done, stage.steps):
            if traced:
                traced.before(number - done)
            state, values = stage.step(state, stage.batch(number))
            if traced:
                traced.after(number - done, (state, values), number + 1 == stage.steps)
            self.record(number, pending, state, check)
            pending = values
            last = number + 1 == stage.steps
            stop = 0 if last else vote.cast(self.interrupts.exit_code)
            if last or stop or (number + 1) % stage.save_every == 0:
                self.record(number + 1, pending, state, check)
                pending = None
                self.save(number + 1, state, check)
            else:
                self.checkpoints.check()
            if stop:
                self.checkpoints.wait()
                raise Interrupted(f"stopped in stage {stage.name} after step {number + 1} of {stage.steps}", stop)
        return state

    def record(self, number: int, values: dict[str, Any] | None, state: Any, check: FiniteCheck) -> None:
        """Write the metrics of step ``number`` (the first is 1) and move the bar."""
        if values is None:
            return
        host = {name: float(value) for name, value in values.items()}
        try:
            self.metrics.write(self.stage.name, number, host)
        except OSError as error:
            if not is_full(error):
                raise
            raise DiskError(
                f"the disk is full: {self.metrics.path} cannot be written at step {number} of stage {self.stage.name}; "
                f"{self.kept()} Free some space and start again with --resume."
            ) from error
        odd = [f"{name} is {host[name]}" for name in self.stage.finite if not math.isfinite(host.get(name, 0.0))]
        if odd:
            self.stop_not_finite(number, ", ".join(odd), check.blame(state))
        self.bar.advance(**{name: host[name] for name in self.stage.shown if name in host})

    def save(self, number: int, state: Any, check: FiniteCheck) -> None:
        """Start writing the state after ``number`` steps."""
        if odd := check.blame(state):
            self.stop_not_finite(number, "found before it was saved", odd)
        self.checkpoints.save(
            number,
            state,
            {
                "identity": self.stage.identity,
                "stage": self.stage.name,
                "records": self.metrics.position(self.stage.name),
            },
            {name: _encoded(one.get_state()) for name, one in self.stage.carried.items()} or None,
        )

    def stop_not_finite(self, number: int, seen: str, tensors: list[str]) -> None:
        named = f"\n{listed(tensors)}\n" if tensors else " (every tensor of the state is finite) "
        raise NotFinite(
            f"step {number} of stage {self.stage.name} is not finite: {seen}{named}Nothing of it is saved; "
            f"{self.kept()} A smaller learning rate or a tighter gradient clip may help."
        )

    def kept(self) -> str:
        """Says what the last good state is."""
        self.checkpoints.wait()
        latest = self.checkpoints.latest()
        if latest is None or self.checkpoints.metadata(latest).get("identity") != self.stage.identity:
            return "no checkpoint of this stage was written before it."
        return f"the last good state is checkpoint {latest} in {self.checkpoints.folder}."


def _find(stage: Stage, state: Any, checkpoints: Checkpoints, resume: bool) -> tuple[int, Any, int]:
    """Steps done, the state after them, and how many records of metrics belong to them."""
    latest = checkpoints.latest()
    if latest is None and not checkpoints.damaged():
        return 0, state, 0
    # Of a finished stage whose end is damaged the rest is done again, asked or not.
    if checkpoints.metadata().get("identity") != stage.identity or (latest != stage.steps and not resume):
        return 0, state, 0
    done, restored, metadata = checkpoints.restore(state)
    if metadata.get("identity") != stage.identity:
        raise CheckpointError(
            f"every checkpoint of this run in {checkpoints.folder} is damaged ({', '.join(checkpoints.damaged())}); "
            f"checkpoint {done} is of a run with other settings. Remove the folder to begin anew."
        )
    carried = checkpoints.local(done) or {}
    if set(carried) != set(stage.carried):
        raise CheckpointError(
            f"checkpoint {done} in {checkpoints.folder} carries {', '.join(sorted(carried)) or 'nothing'}, "
            f"the stage {', '.join(sorted(stage.carried)) or 'nothing'}: it could not go on as it would have."
        )
    for name, one in stage.carried.items():
        one.set_state(_decoded(carried[name]))
    # Checkpoints from before records were counted: a step wrote one.
    return done, jax.tree.map(_as_committed, state, restored), metadata.get("records", done)


def _as_committed(like: Any, leaf: Any) -> Any:
    """Orbax hands out arrays that are committed to their devices. Where those of a fresh run are not, a jitted step
    would compile again for them; where they are, as on a mesh, the leaf stays as and where it is."""
    if not isinstance(like, jax.Array) or like.committed:
        return leaf
    if is_key(leaf):
        return jax.random.wrap_key_data(np.asarray(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return jax.numpy.asarray(np.asarray(leaf))


def _nbytes(state: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state) if hasattr(leaf, "nbytes"))


def _encoded(state: Any) -> dict[str, Any]:
    if isinstance(state, bytes):
        return {"base64": base64.b64encode(state).decode()}
    return {"json": state}


def _decoded(state: dict[str, Any]) -> Any:
    return base64.b64decode(state["base64"]) if "base64" in state else state["json"]
