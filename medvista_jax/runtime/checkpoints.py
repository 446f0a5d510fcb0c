"""Checkpoints of any pytree with Orbax: written in the background, newest kept, restored to the exact bit.

The tree is stored flat, ``path -> array``, beside a JSON item with the metadata and the dtype, shape and checksum of
every leaf. The flat form is what makes a mismatch readable: two sets of paths are compared before Orbax sees them. The
checksums are needed because neither Orbax nor the file format notices a changed byte in an array.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from medvista_jax.runtime.disk import DiskError, is_full, is_remote, require_writable
from medvista_jax.runtime.leaves import checksums, is_key, leaf_paths

MISMATCH_LINES = 20
LATE_READS_SECONDS = 0.2
COMMITTED = "commit_success.txt"
"""The last file that Orbax writes into a checkpoint, before it gets its final name."""


class CheckpointError(RuntimeError):
    """A checkpoint is absent or damaged, or does not fit the tree that it was asked to fill."""


class _Damaged(Exception):
    """A checkpoint cannot be read as it was written."""


class Checkpoints:
    """The checkpoints of one run in ``folder``.

    Leaves may be ``jax.Array`` (sharded ones too), typed PRNG keys (``jax.random.key``), NumPy arrays and
    Python ``int``/``float``/``bool``.

    A checkpoint gets its name only when it is complete: what a kill leaves half-written is removed by the next run. One
    that was damaged later is found when it is read: it is renamed to ``STEP.damaged``, ``say`` is told, and the one
    before it is taken.

    Several processes (``jax.distributed``) make every call together, on a folder that all of them see.

    Args:
      folder: where they lie; made when absent. A URL such as ``gs://bucket/run`` is handed to Orbax as it is.
      keep: how many of the newest stay.
      say: takes a line about a damaged checkpoint; a warning of this module's logger when left out.

    Raises:
      DiskError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, keep: int = 2, say: Callable[[str], None] | None = None) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        # Orbax logs a dozen INFO and WARNING lines a save through absl; failures arrive as exceptions anyway.
        logger = logging.getLogger("absl")
        logger.setLevel(max(logger.level, logging.CRITICAL))
        self.folder = str(folder) if is_remote(folder) else str(Path(folder).resolve())
        self._say = say or logging.getLogger(__name__).warning
        require_writable(self.folder)
        # To read with. The manager's own restore ends in a barrier, which a process that cannot read its shards would
        # not reach: the others would hang.
        self._arrays, self._json = ocp.StandardCheckpointHandler(), ocp.JsonCheckpointHandler()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, enable_async_checkpointing=True, cleanup_tmp_directories=True
            ),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def save(self, step: int, tree: Any, metadata: dict[str, Any] | None = None, local: Any = None) -> None:
        """Starts writing ``tree`` as checkpoint ``step``; later updates, donated ones too, do not reach it.

        A checkpoint of this step or a later one is removed first: whoever saves an earlier step has gone back
        and rewrites what follows.

        Args:
          step: non-negative number of the checkpoint.
          tree: any pytree.
          metadata: whatever JSON can hold (configuration, stage); the same in every process.
          local: JSON of this process alone, such as the state of its data iterator; :meth:`local` reads it.

        Raises:
          TypeError: metadata or ``local`` is not JSON, or a leaf is no array or number.
          DiskError: the disk is full: this checkpoint, or the one before it, is not complete.
        """
        flat = {path: _storable(path, leaf) for path, leaf in leaf_paths(tree).items()}
        about = {
            "leaves": {path: _describe(leaf) for path, leaf in leaf_paths(tree).items()},
            "checksums": checksums(flat),
            "metadata": _as_json("metadata", metadata or {}),
            "local": _of_all_processes(_as_json("local state", local)),
        }
        self.wait()
        with self._explained(step):
            for old in self._manager.all_steps():
                if old >= step:
                    self._manager.delete(old)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(flat),
                    about=ocp.args.JsonSave({**about, "crc32": _crc32(about)}),
                ),
                force=True,
            )

    def restore(self, like: Any, step: int | None = None) -> tuple[int, Any, dict[str, Any]]:
        """Reads a checkpoint into the structure of ``like``, and compares every leaf's checksum.

        Args:
          like: a tree of the same paths, shapes and dtypes: the freshly initialised state, or its
            ``jax.eval_shape``. Arrays land with the sharding that ``like`` has, else on the default device.
          step: which checkpoint; the newest undamaged one when left out.

        Returns:
          ``(step, tree, metadata)``.

        Raises:
          CheckpointError: nothing to restore, or all is damaged, or the trees differ; the message lists the paths that
            do.
        """
        return self._undamaged(step, lambda step: self._read(step, like))

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """Metadata of a checkpoint, the newest undamaged one when left out, without reading its arrays.

        Raises:
          CheckpointError: there is none.
        """
        return self._undamaged(step, self._about)["metadata"]

    def local(self, step: int) -> Any:
        """What this process gave :meth:`save` as ``local``.

        Raises:
          CheckpointError: there is no such checkpoint, or as many processes wrote it as there are not now.
        """
        found = self._undamaged(step, self._about).get("local", [None])
        if len(found) != jax.process_count() and any(one is not None for one in found):
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} holds the data iterators of {len(found)} processes; "
                f"{jax.process_count()} cannot go on with them. Start {len(found)} processes."
            )
        return found[jax.process_index()] if jax.process_index() < len(found) else None

    def latest(self) -> int | None:
        """Number of the newest complete checkpoint, ``None`` when there is none."""
        self.wait()
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Numbers of the complete checkpoints, oldest first."""
        self.wait()
        return sorted(self._manager.all_steps())

    def damaged(self) -> list[str]:
        """Names of the checkpoints that were set aside in the folder."""
        return sorted(path.name for path in epath.Path(self.folder).iterdir() if ".damaged" in path.name)

    def wait(self) -> None:
        """Blocks until the writing is done; raises what went wrong in it."""
        with self._explained():
            self._manager.wait_until_finished()

    def check(self) -> None:
        """Raises what went wrong in writing so far, without waiting for it."""
        with self._explained():
            self._manager.check_for_errors()

    def close(self) -> None:
        """Waits for the writing and lets go of the folder."""
        with self._explained():
            self._manager.close()

    def _folder_of(self, step: int) -> epath.Path:
        return epath.Path(self.folder) / str(step)

    def _undamaged(self, step: int | None, read: Callable[[int], Any]) -> Any:
        """``read(step)``, or of the newest step that can be read; those that cannot are set aside."""
        steps = self.steps()
        if step is not None:
            if step not in steps:
                raise CheckpointError(f"no checkpoint of step {step} in {self.folder}; there are {steps}")
            try:
                return read(step)
            except _Damaged as why:
                raise CheckpointError(f"checkpoint {step} in {self.folder} is damaged: {why}") from why
        for newest in reversed(steps):
            try:
                return read(newest)
            except _Damaged as why:
                self._set_aside(newest, str(why))
        if damaged := self.damaged():
            raise CheckpointError(
                f"every checkpoint in {self.folder} is damaged ({', '.join(damaged)}). "
                "Put back a copy of one under its number, or remove the folder to begin anew."
            )
        raise CheckpointError(f"no checkpoint in {self.folder}")

    def _about(self, step: int) -> dict[str, Any]:
        with self._reading(step):
            if not (self._folder_of(step) / COMMITTED).exists():
                raise _Damaged(f"it has no {COMMITTED}: a copy that was cut short")
            about = self._json.restore(self._folder_of(step) / "about", args=ocp.args.JsonRestore())
            # Checkpoints from before there were checksums have none to compare.
            crc32 = about.pop("crc32", None)
            if crc32 is not None and crc32 != _crc32(about):
                raise _Damaged("the checksum of its metadata is wrong")
            return about

    def _read(self, step: int, like: Any) -> tuple[int, Any, dict[str, Any]]:
        about = self._about(step)
        wanted = leaf_paths(like)
        difference = compare_leaves(about["leaves"], {path: _describe(leaf) for path, leaf in wanted.items()})
        if difference:
            raise CheckpointError(f"checkpoint {step} in {self.folder} does not fit the tree asked for:\n{difference}")
        target = {path: _target(leaf) for path, leaf in wanted.items()}
        with self._reading(step):
            flat = self._arrays.restore(self._folder_of(step) / "state", args=ocp.args.StandardRestore(target))
        # Apart, since all processes take part in a checksum: first they agree that each of them could read its shards.
        with self._reading(step):
            if saved := about.get("checksums"):
                changed = [path for path, number in checksums(flat).items() if number != saved[path]]
                if changed:
                    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
                    raise _Damaged(f"the checksum of {changed[0]}{more} is wrong")
        leaves = [_revived(leaf, flat[path]) for path, leaf in wanted.items()]
        return step, jax.tree.unflatten(jax.tree.structure(like), leaves), about["metadata"]

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turns what a damaged checkpoint makes Orbax raise into :class:`_Damaged`, in all processes alike."""
        why: str | None = None
        try:
            with _quiet():
                yield
        except _Damaged as error:
            why = str(error)
        except Exception as error:  # Orbax raises a plain Exception for a data file that is missing
            if _is_no_damage(error):
                raise
            first_line = str(error).partition("\n")[0].partition(". See full")[0]
            why = f"{type(error).__name__}: {first_line[:200]}"
        if jax.process_count() > 1 and multihost_utils.process_allgather(np.array(why is not None)).any():
            why = why or "another process could not read it"
        if why is not None:
            raise _Damaged(why)

    def _set_aside(self, step: int, why: str) -> None:
        place = self._folder_of(step)
        name = f"{step}.damaged"
        if jax.process_index() == 0:
            count = 1
            while (place.parent / name).exists():
                count += 1
                name = f"{step}.damaged-{count}"
            place.rename(place.parent / name)
            self._say(f"checkpoint {step} in {self.folder} is damaged and set aside as {name}: {why}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"checkpoint {step} set aside")
        self._manager.reload()

    @contextlib.contextmanager
    def _explained(self, step: int | None = None) -> Iterator[None]:
        """Says of a full disk what is kept, and how to go on."""
        try:
            yield
        except Exception as error:
            if not is_full(error):
                raise
            kept = sorted(old for old in self._manager.all_steps() if old != step)
            newest = f"the newest complete one is {kept[-1]}" if kept else "there is no complete one yet"
            raise DiskError(
                f"the disk is full: a checkpoint in {self.folder} was not completed; {newest}. "
                "Free some space and start again with --resume."
            ) from error


def compare_leaves(saved: dict[str, str], wanted: dict[str, str]) -> str:
    """Lines that say where two trees differ, empty when they agree.

    Args:
      saved, wanted: path -> description such as ``"float32[3,4]"``.
    """
    lines = [f"  only in the checkpoint: {path}  {saved[path]}" for path in saved if path not in wanted]
    lines += [f"  missing in the checkpoint: {path}  {wanted[path]}" for path in wanted if path not in saved]
    lines += [
        f"  differs: {path}  checkpoint {saved[path]}, asked for {wanted[path]}"
        for path in saved
        if path in wanted and saved[path] != wanted[path]
    ]
    more = len(lines) - MISMATCH_LINES
    if more > 0:
        lines = [*lines[:MISMATCH_LINES], f"  … and {more} more"]
    return "\n".join(lines)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallows the tracebacks that Orbax's abandoned reads print when a file cannot be read, some of them from threads
    a moment later; the exception itself is raised all the same."""
    before = sys.unraisablehook
    try:
        yield
    except Exception:
        sys.unraisablehook = lambda unraisable: None
        with warnings.catch_warnings(action="ignore"):
            gc.collect()
        time.sleep(LATE_READS_SECONDS)
        raise
    finally:
        sys.unraisablehook = before


def _is_no_damage(error: Exception) -> bool:
    """Whether reading failed for want of memory or permission: the checkpoint may be perfectly well."""
    texts = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
    kinds = (MemoryError, PermissionError, jax.errors.JaxRuntimeError, CheckpointError)
    return isinstance(error, kinds) or any(text in str(error) for text in texts)


def _as_json(what: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"checkpoint {what} must be JSON: {error}") from error


def _crc32(about: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _of_all_processes(value: Any) -> list[Any]:
    """The JSON values of all processes, in order; one process writes them all."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(text.size))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: text.size] = text
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(row[:length]).decode()) for row, length in zip(rows, lengths, strict=True)]


def _describe(leaf: Any) -> str:
    if isinstance(leaf, bool | int | float):
        return type(leaf).__name__
    if not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _storable(path: str, leaf: Any) -> Any:
    if is_key(leaf):
        return jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array):
        return leaf
    if isinstance(leaf, np.ndarray | np.generic | bool | int | float):
        return np.asarray(leaf)  # Orbax copies what it writes later
    raise TypeError(f"leaf {path!r} of type {type(leaf).__name__} cannot be stored")


def _target(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray | np.generic | bool | int | float):
        return np.array(leaf)
    if is_key(leaf):
        leaf = jax.random.key_data(leaf) if isinstance(leaf, jax.Array) else jax.eval_shape(jax.random.key_data, leaf)
    # Without a sharding Orbax would look for the devices that wrote the file, which may not be here.
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _revived(like: Any, value: Any) -> Any:
    if isinstance(like, bool | int | float):
        return type(like)(np.asarray(value).item())
    if isinstance(like, np.generic):
        return np.asarray(value)[()]
    if is_key(like):
        return jax.random.wrap_key_data(value, impl=_key_impl(like))
    return value


def _key_impl(like: Any) -> Any:
    """The generator of a typed key, or of its ``ShapeDtypeStruct``, which ``jax.random.key_impl`` refuses."""
    seen = []
    jax.eval_shape(lambda key: seen.append(jax.random.key_impl(key)), like)
    return seen[0]
