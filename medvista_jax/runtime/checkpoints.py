"""Checkpoints of any pytree with Orbax: written in the background, newest kept, restored to the exact bit.

The tree is stored flat, ``path -> array``, beside a JSON item with the metadata and the dtype and shape of
every leaf. The flat form is what makes a mismatch readable: two sets of paths are compared before Orbax sees
them.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

MISMATCH_LINES = 20


class CheckpointError(RuntimeError):
    """A checkpoint is absent, or does not fit the tree that it was asked to fill."""


class Checkpoints:
    """The checkpoints of one run in ``folder``.

    Leaves may be ``jax.Array`` (sharded ones too), typed PRNG keys (``jax.random.key``), NumPy arrays and
    Python ``int``/``float``/``bool``.

    Args:
      folder: where they lie; made when absent. A URL such as ``gs://bucket/run`` is handed to Orbax as it is.
      keep: how many of the newest stay.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        # Orbax logs a dozen INFO and WARNING lines a save through absl; failures arrive as exceptions anyway.
        logger = logging.getLogger("absl")
        logger.setLevel(max(logger.level, logging.ERROR))
        self.folder = str(folder) if "://" in str(folder) else str(Path(folder).resolve())
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def save(self, step: int, tree: Any, metadata: dict[str, Any] | None = None) -> None:
        """Starts writing ``tree`` as checkpoint ``step``; later updates, donated ones too, do not reach it.

        A checkpoint of this step or a later one is removed first: whoever saves an earlier step has gone back
        and rewrites what follows.

        Args:
          step: non-negative number of the checkpoint.
          tree: any pytree.
          metadata: whatever JSON can hold (configuration, stage, the data iterator's state).

        Raises:
          TypeError: the metadata is not JSON, or a leaf is no array or number.
        """
        try:
            metadata = json.loads(json.dumps(metadata or {}))
        except (TypeError, ValueError) as error:
            raise TypeError(f"checkpoint metadata must be JSON: {error}") from error
        flat = {path: _storable(path, leaf) for path, leaf in _paths(tree).items()}
        about = {
            "leaves": {path: _describe(leaf) for path, leaf in _paths(tree).items()},
            "metadata": metadata,
        }
        self.wait()
        for old in self._manager.all_steps():
            if old >= step:
                self._manager.delete(old)
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(flat), about=ocp.args.JsonSave(about)),
            force=True,
        )

    def restore(self, like: Any, step: int | None = None) -> tuple[int, Any, dict[str, Any]]:
        """Reads a checkpoint into the structure of ``like``.

        Args:
          like: a tree of the same paths, shapes and dtypes: the freshly initialised state, or its
            ``jax.eval_shape``. Arrays land with the sharding that ``like`` has, else on the default device.
          step: which checkpoint; the newest when left out.

        Returns:
          ``(step, tree, metadata)``.

        Raises:
          CheckpointError: nothing to restore, or the trees differ; the message lists the paths that do.
        """
        self.wait()
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise CheckpointError(f"no checkpoint in {self.folder}")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise CheckpointError(f"no checkpoint of step {step} in {self.folder}; there are {steps}")
        about = self._about(step)
        wanted = _paths(like)
        difference = compare_leaves(about["leaves"], {path: _describe(leaf) for path, leaf in wanted.items()})
        if difference:
            raise CheckpointError(f"checkpoint {step} in {self.folder} does not fit the tree asked for:\n{difference}")
        target = {path: _target(leaf) for path, leaf in wanted.items()}
        flat = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))).state
        leaves = [_revived(leaf, flat[path]) for path, leaf in wanted.items()]
        return step, jax.tree.unflatten(jax.tree.structure(like), leaves), about["metadata"]

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """Metadata of a checkpoint, the newest when left out, without reading its arrays.

        Raises:
          CheckpointError: there is none.
        """
        self.wait()
        step = self._manager.latest_step() if step is None else step
        if step is None or step not in self._manager.all_steps():
            raise CheckpointError(f"no checkpoint{'' if step is None else f' of step {step}'} in {self.folder}")
        return self._about(step)["metadata"]

    def _about(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about

    def latest(self) -> int | None:
        """Number of the newest complete checkpoint, ``None`` when there is none."""
        self.wait()
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Numbers of the complete checkpoints, oldest first."""
        self.wait()
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Blocks until the writing is done; raises what went wrong in it."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the writing and lets go of the folder."""
        self._manager.close()


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


def _paths(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    paths = {jax.tree_util.keystr(path, simple=True, separator="/") or "value": leaf for path, leaf in leaves}
    if len(paths) != len(leaves):
        raise ValueError("two leaves of the tree have the same path; a dictionary key holds a '/'")
    return paths


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(leaf: Any) -> str:
    if isinstance(leaf, bool | int | float):
        return type(leaf).__name__
    if not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _storable(path: str, leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array):
        return leaf
    if isinstance(leaf, np.ndarray | np.generic | bool | int | float):
        return np.asarray(leaf)  # Orbax copies what it writes later
    raise TypeError(f"leaf {path!r} of type {type(leaf).__name__} cannot be stored")


def _target(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray | np.generic | bool | int | float):
        return np.array(leaf)
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf) if isinstance(leaf, jax.Array) else jax.eval_shape(jax.random.key_data, leaf)
    # Without a sharding Orbax would look for the devices that wrote the file, which may not be here.
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _revived(like: Any, value: Any) -> Any:
    if isinstance(like, bool | int | float):
        return type(like)(np.asarray(value).item())
    if isinstance(like, np.generic):
        return np.asarray(value)[()]
    if _is_key(like):
        return jax.random.wrap_key_data(value, impl=_key_impl(like))
    return value


def _key_impl(like: Any) -> Any:
    """The generator of a typed key, or of its ``ShapeDtypeStruct``, which ``jax.random.key_impl`` refuses."""
    seen = []
    jax.eval_shape(lambda key: seen.append(jax.random.key_impl(key)), like)
    return seen[0]
