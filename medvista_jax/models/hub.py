"""Models from hub-layout folders and back: ``load`` puts every tensor straight in its place, ``save`` writes them back.

    model, params = load("Qwen3-VL-2B-Instruct", dtype=jnp.bfloat16, mesh=mesh)
    save(model, params, "out")          # transformers' from_pretrained("out") opens it

Nothing is loaded before every name and every shape has been found right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from medvista_jax.core.types import Array, Params
from medvista_jax.models.examine import examine, leaf_shapes, list_problems
from medvista_jax.models.families import Family, config_to_save, family_of_config, read_config, with_tied
from medvista_jax.models.names import flatten, nest, shape_on_disk, to_hub
from medvista_jax.models.shard_writer import SHARD_BYTES, ShardWriter, plan_shards, write_index, write_text
from medvista_jax.models.streaming import Leaf, Progress, stream
from medvista_jax.models.tensor_files import INDEX, SINGLE, Tensor, TensorFiles
from medvista_jax.runtime.sharding import tree_shardings

LEAF_DTYPES = ("float32", "bfloat16", "float16")
"""What parameters can be loaded as."""

COPIED = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "*processor_config.json",
    "chat_template*",
    "additional_chat_templates",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
)
"""What ``save`` takes over from the folder that the model was loaded from."""


def load(
    folder: str | Path,
    dtype: Any = None,
    mesh: Mesh | None = None,
    image_size: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> tuple[Any, Params]:
    """The model of a hub-layout folder and its parameters, on the devices.

    Args:
      folder: ``config.json`` and ``model.safetensors``, or shards with ``model.safetensors.index.json``.
      dtype: ``jnp.float32``, ``jnp.bfloat16`` or ``jnp.float16``; each tensor's own on disk when left out.
      mesh: where to, by the family's sharding rules; the default device when left out. On several hosts each one reads
        what its own devices need.
      image_size: h, w of the views that the model encodes; the family's choice when left out.
      progress: called with bytes read and bytes in all, after every tensor.

    Returns:
      ``(model, params)``: an instance of the family's class that remembers where it came from, and nested dicts.

    Raises:
      BadCheckpoint: no model folder, a damaged file, an unsupported architecture, or tensors that are missing, unknown
        or of another shape.
    """
    dtype = None if dtype is None else _leaf_dtype(dtype)
    with TensorFiles(folder) as files:
        found = examine(files, image_size)
        shardings: Mapping[str, Any] = {}
        if mesh is not None:
            shardings = flatten(tree_shardings(found.family.params().RULES, found.abstract_params(dtype), mesh))
        leaves = [
            Leaf(entry, tensor, found.shapes[path], found.leaf_dtype(path, dtype), shardings.get(path))
            for path, (entry, tensor) in found.pairs.items()
        ]
        placed = stream(files, leaves, progress)
    activations = found.leaf_dtype("decoder/embedding", dtype).name
    return dataclasses.replace(found.model, dtype=activations), nest(placed)


def _leaf_dtype(dtype: Any) -> np.dtype:
    dtype = jnp.dtype(dtype)
    if dtype.name not in LEAF_DTYPES:
        raise ValueError(f"parameters are loaded as one of {', '.join(LEAF_DTYPES)}, not {dtype}")
    return dtype


def save(
    model: Any,
    params: Params,
    folder: str | Path,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Writes a hub-layout folder: configuration, shards, and the tokenizer and processor files of the model's source.

    The folder appears complete or not at all. On several hosts all must call; the first one writes.

    Args:
      model: knows its ``source``, as every model that was loaded does.
      params: its parameters; each tensor is written in the dtype that it has.
      folder: must not hold a model yet.
      shard_bytes: most bytes of a shard; a tensor is never split.
      progress: called with bytes written and bytes in all, after every tensor.

    Raises:
      FileExistsError: there is a model in the folder, or the path is a file.
      ValueError: the model has no source, or the parameters do not fit it.
      OSError: the disk is full.
    """
    folder = Path(folder).absolute()
    leaves = flatten(params)
    family = _family_to_save(model, leaves)
    entries = {entry.hub: entry for entry in family.entries(model.config)}
    plan = [
        Tensor(entry.hub, np.dtype(leaves[entry.path].dtype), shape_on_disk(entry, leaves[entry.path].shape))
        for entry in entries.values()
    ]
    shards = plan_shards(plan, shard_bytes)
    total, done = sum(tensor.nbytes for tensor in plan), 0
    writes = jax.process_index() == 0
    with _appearing(folder, total) if writes else contextlib.nullcontext(folder) as place:
        if writes:
            _write_beside(model, family, place, plan)
        for file, members in shards.items():
            with ShardWriter(place / file, members) if writes else contextlib.nullcontext() as shard:
                for tensor in members:
                    entry = entries[tensor.name]
                    whole = gather(leaves[entry.path])
                    if shard is not None:
                        shard.append(to_hub(entry, whole))
                    done += tensor.nbytes
                    if progress is not None:
                        progress(done, total)
        if writes:
            write_index(place, shards)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"saved {folder}")


def gather(leaf: Array | np.ndarray) -> np.ndarray:
    """A whole leaf on the host; all hosts must call. The copy goes when the caller lets go of it."""
    if not isinstance(leaf, jax.Array):
        return np.asarray(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    if not leaf.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    # np.asarray(leaf) would keep the copy inside the leaf, and with it the whole model a second time.
    whole = np.empty(leaf.shape, leaf.dtype)
    for i, shard in enumerate(leaf.addressable_shards):
        if shard.replica_id == 0:
            whole[shard.index] = np.asarray(leaf.addressable_data(i))
    return whole


def _family_to_save(model: Any, leaves: Mapping[str, Any]) -> Family:
    if model.adapters is not None:
        raise ValueError(
            f"this {type(model).__name__} has adapters, which a hub folder cannot hold: merge them first "
            "(models.lora.merge), or write them alone (models.lora_files.save_adapters)"
        )
    if model.source is None:
        raise ValueError(
            f"this {type(model).__name__} was not loaded from a folder, so its config.json is unknown; give it one: "
            "dataclasses.replace(model, source=HubSource(config_json=…, folder=…))"
        )
    shapes = leaf_shapes(model)
    problems = {
        "missing": [f"{path}  {list(shapes[path])}" for path in shapes.keys() - leaves.keys()],
        "unknown": [f"{path}  {list(leaves[path].shape)}" for path in leaves.keys() - shapes.keys()],
        "of another shape": [
            f"{path}  expected {list(shapes[path])}, got {list(leaves[path].shape)}"
            for path in shapes.keys() & leaves.keys()
            if tuple(leaves[path].shape) != tuple(shapes[path])
        ],
    }
    if any(problems.values()):
        raise ValueError(
            f"the parameters do not fit this {type(model).__name__}; nothing was written.\n{list_problems(problems)}"
        )
    return family_of_config(json.loads(model.source.config_json), f"config.json of {model.source.folder or 'source'}")


@contextlib.contextmanager
def _appearing(folder: Path, nbytes: int) -> Iterator[Path]:
    """A folder to write into, which gets the name ``folder`` once all is there."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give a folder to save into")
    if any(folder.glob("*.safetensors")) or (folder / INDEX).exists():
        raise FileExistsError(f"{folder} holds a model already; give another folder, or remove that one first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < nbytes:
        raise OSError(errno.ENOSPC, f"the model takes {nbytes:,} bytes, {free:,} are free", str(folder.parent))
    place = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    place.mkdir()
    try:
        yield place
        if not folder.exists():
            os.replace(place, folder)
            return
        # The weights come last and the index at the very end: without it the folder is no model.
        for path in sorted(
            place.iterdir(), key=lambda path: (path.name in (SINGLE, INDEX), path.suffix == ".safetensors")
        ):
            if (folder / path.name).is_dir():
                shutil.rmtree(folder / path.name)
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write_beside(model: Any, family: Family, place: Path, plan: Sequence[Tensor]) -> None:
    """Everything but the weights."""
    # transformers casts everything to the one dtype that the file names: the widest loses nothing.
    dtype = functools.reduce(jnp.promote_types, (tensor.dtype for tensor in plan))
    tied = model.config.decoder.tied
    write_text(place / "config.json", config_to_save(model.source.config_json, family, dtype.name, tied))
    described = with_tied(read_config(family, place), tied)
    if described != model.config and leaf_shapes(dataclasses.replace(model, config=described)) != leaf_shapes(model):
        raise ValueError(
            f"the config.json of the model's source describes other parameters than this {type(model).__name__} has; "
            "give it a source whose config_json fits its config"
        )
    source = Path(model.source.folder)
    if not model.source.folder or not source.is_dir():
        if model.source.folder:
            warnings.warn(f"{source} is gone: tokenizer and processor files are not copied", stacklevel=3)
        return
    for path in sorted({path for pattern in COPIED for path in source.glob(pattern)}):
        if path.is_dir():
            shutil.copytree(path, place / path.name)
        else:
            shutil.copyfile(path, place / path.name)
