"""``medvista-tiny`` on disk: a folder that looks like a hub's, in a layout of its own.

The hub has no class for this family, so its layout is ours, and this is all of it:

- ``config.json``: ``model_type`` ``medvista_tiny``, the fields of :class:`MedVistaTinyConfig`, and under ``decoder``
  those of :class:`medvista_jax.models.blocks.DecoderConfig`;
- ``model.safetensors``, or shards with ``model.safetensors.index.json``: a tensor for each leaf of the parameters,
  named by its path with dots, ``decoder.layer_0.q.kernel``. Kernels lie as Flax has them, ``[in, out]``: the transpose
  of torch's;
- ``preprocessor_config.json``: an image is made grey, resized to ``size`` (linear, antialiased) and becomes
  ``(level / 255 - mean) / std``.

    model, params = read_folder("out")
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Params
from medvista_jax.models.blocks import DecoderConfig
from medvista_jax.models.examine import leaf_shapes, list_problems
from medvista_jax.models.medvista_tiny.modeling import MedVistaTiny, MedVistaTinyConfig
from medvista_jax.models.names import flatten, nest
from medvista_jax.models.shard_writer import SHARD_BYTES, ShardWriter, plan_shards, write_index, write_text
from medvista_jax.models.tensor_files import BadCheckpoint, Tensor, TensorFiles, check_folder, read_json

MODEL_TYPE = "medvista_tiny"
MEAN, STD = 127.5 / 255, 64.0 / 255
"""Levels of :class:`medvista_jax.models.medvista_tiny.modeling.VisionTower`, as image processors name them."""


def write_folder(
    model: MedVistaTiny,
    params: Params,
    folder: Path,
    more: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Configuration, weights and image settings into a folder that is there.

    Args:
      more: further entries of ``config.json``, which :func:`read_folder` passes over.

    Raises:
      ValueError: the model has adapters, or the parameters do not fit it.
    """
    if model.adapters is not None:
        raise ValueError("this model has adapters: merge them first (medvista_jax.models.lora.merge)")
    leaves = flatten(params)
    _compare(
        {path: tuple(leaf.shape) for path, leaf in leaves.items()}, leaf_shapes(model), "the parameters do not fit"
    )
    c = model.config
    sizes = {field.name: getattr(c, field.name) for field in dataclasses.fields(c) if field.name != "decoder"}
    described = {
        "architectures": ["MedVistaTiny"],
        "model_type": MODEL_TYPE,
        "dtype": "float32",
        **sizes,
        "decoder": dataclasses.asdict(c.decoder_config()),
        **(more or {}),
    }
    image = {
        "image_processor_type": "MedVistaTinyImageProcessor",
        "channels": c.channels,
        "do_resize": True,
        "size": {"height": c.image, "width": c.image},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * c.channels,
        "image_std": [STD] * c.channels,
    }
    write_text(folder / "config.json", json.dumps(described, indent=2) + "\n")
    write_text(folder / "preprocessor_config.json", json.dumps(image, indent=2) + "\n")
    arrays = {_name(path): np.asarray(leaf) for path, leaf in leaves.items()}
    shards = plan_shards((Tensor(name, array.dtype, array.shape) for name, array in arrays.items()), shard_bytes)
    for file, members in shards.items():
        with ShardWriter(folder / file, members) as shard:
            for tensor in members:
                shard.append(arrays[tensor.name])
    write_index(folder, shards)


def read_folder(folder: str | Path) -> tuple[MedVistaTiny, Params]:
    """The model of a folder of :func:`write_folder` and its parameters, to the bit.

    Raises:
      BadCheckpoint: no such folder, a damaged file, or tensors that are missing, unknown or of another shape.
    """
    folder = check_folder(folder)
    path = folder / "config.json"
    model = MedVistaTiny(_config(read_json(path), path))
    with TensorFiles(folder) as files:
        shapes = {_name(path): shape for path, shape in leaf_shapes(model).items()}
        found = {name: tensor.shape for name, tensor in files.tensors.items()}
        try:
            _compare(found, shapes, f"the tensors of {folder} do not fit")
        except ValueError as error:
            raise BadCheckpoint(str(error)) from None
        return model, nest((name.replace(".", "/"), jnp.asarray(files.read(name))) for name in shapes)


def _name(path: str) -> str:
    return path.replace("/", ".")


def _config(described: Mapping[str, Any], path: Path) -> MedVistaTinyConfig:
    if described.get("model_type") != MODEL_TYPE:
        raise BadCheckpoint(f"{path}: model_type {described.get('model_type')!r} is not {MODEL_TYPE!r}")
    known = {field.name for field in dataclasses.fields(MedVistaTinyConfig)} - {"decoder"}
    try:
        decoder = dict(described["decoder"])
        decoder["mrope_section"] = tuple(decoder["mrope_section"])
        config = MedVistaTinyConfig(**{name: described[name] for name in known})
        whole = DecoderConfig(**decoder)
    except (KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{path} does not describe a {MODEL_TYPE}: {error}") from None
    # The decoder that a configuration has by itself is left to it, so that equal models are equal.
    return config if config.decoder_config() == whole else dataclasses.replace(config, decoder=whole)


def _compare(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], what: str) -> None:
    both = found.keys() & wanted.keys()
    problems = {
        "missing": [f"{name}  {list(wanted[name])}" for name in wanted.keys() - found.keys()],
        "unknown": [f"{name}  {list(found[name])}" for name in found.keys() - wanted.keys()],
        "of another shape": [
            f"{name}  expected {list(wanted[name])}, got {list(found[name])}"
            for name in both
            if tuple(found[name]) != tuple(wanted[name])
        ],
    }
    if any(problems.values()):
        raise ValueError(f"{what} this medvista-tiny.\n{list_problems(problems)}")
