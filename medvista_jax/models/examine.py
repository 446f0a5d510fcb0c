"""Does a checkpoint fit its configuration? Answered from headers alone, before anything is loaded."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.models.families import Family, family_of, read_config, with_tied
from medvista_jax.models.hub_model import HubSource
from medvista_jax.models.names import Entry, flatten, nest, shape_on_disk
from medvista_jax.models.tensor_files import BadCheckpoint, Tensor, TensorFiles

LISTED = 12
"""Tensors named in an error, of each kind."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint whose tensors fit its configuration.

    Attributes:
      family, model: of the checkpoint.
      pairs: path -> (entry, tensor on disk).
      shapes: path -> shape of our leaf.
    """

    family: Family
    model: Any
    pairs: dict[str, tuple[Entry, Tensor]]
    shapes: dict[str, tuple[int, ...]]

    def leaf_dtype(self, path: str, dtype: np.dtype | None) -> np.dtype:
        """The dtype that a leaf gets: ``dtype``, or the one on disk (float64 becomes float32)."""
        stored = self.pairs[path][1].dtype
        return dtype or (np.dtype(np.float32) if stored == np.float64 else stored)

    def abstract_params(self, dtype: np.dtype | None) -> dict[str, Any]:
        """The parameters as ``ShapeDtypeStruct``."""
        return nest(
            (path, jax.ShapeDtypeStruct(shape, self.leaf_dtype(path, dtype))) for path, shape in self.shapes.items()
        )


def examine(files: TensorFiles, image_size: tuple[int, int] | None = None) -> Found:
    """Compares a folder's tensors with what its configuration asks for.

    Args:
      image_size: h, w of the views of the model; the family's choice when left out.

    Raises:
      BadCheckpoint: an unsupported architecture, a setting that is not ported, or tensors that are missing, unknown or
        of another shape: one error that lists them all.
    """
    family, text = family_of(files.folder)
    config = read_config(family, files.folder)
    untied = with_tied(config, tied=False)
    heads = [entry for entry in family.entries(untied) if entry.path == "decoder/head"]
    # What is on disk counts: a fine-tuned copy may have a head of its own under a configuration that still says tied.
    if any(name in files.tensors for head in heads for name in (head.hub, *head.aliases)):
        config = untied
    source = HubSource(config_json=text, folder=str(files.folder.absolute()))
    sizes = {} if image_size is None else {"image_size": image_size}
    model = family.model_class()(config, source=source, **sizes)
    shapes = leaf_shapes(model)
    entries = family.entries(config)
    if len(entries) != len(shapes) or {entry.path for entry in entries} != set(shapes):
        difference = sorted({entry.path for entry in entries} ^ set(shapes))
        raise RuntimeError(f"{family.package}.params.entries and {family.model}.init differ in {difference[:LISTED]}")
    return Found(family, model, _pair(files, family, entries, shapes), shapes)


def leaf_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """``path -> shape`` of a model's parameters; nothing is allocated."""
    return {path: leaf.shape for path, leaf in flatten(jax.eval_shape(model.init, jax.random.key(0))).items()}


def _pair(
    files: TensorFiles, family: Family, entries: Sequence[Entry], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[Entry, Tensor]]:
    """Path -> entry and tensor, or one error that lists everything that does not fit."""
    pairs: dict[str, tuple[Entry, Tensor]] = {}
    missing, misshapen, no_floats = [], [], []
    for entry in entries:
        wanted = shape_on_disk(entry, shapes[entry.path])
        name = next((name for name in (entry.hub, *entry.aliases) if name in files.tensors), None)
        if name is None:
            missing.append(f"{entry.hub}  {list(wanted)}")
            continue
        tensor = files.tensors[name]
        pairs[entry.path] = entry, tensor
        if tensor.shape != wanted:
            misshapen.append(f"{name}  expected {list(wanted)}, found {list(tensor.shape)}")
        if not jnp.issubdtype(tensor.dtype, jnp.floating) or tensor.dtype.itemsize < 2:
            no_floats.append(f"{name}  {tensor.dtype}")
    ignored = re.compile("|".join(f"(?:{pattern})" for pattern in family.ignored()))
    used = {tensor.name for _, tensor in pairs.values()}
    unknown = [
        f"{name}  {list(tensor.shape)}"
        for name, tensor in files.tensors.items()
        if name not in used and not ignored.search(name)
    ]
    problems = {
        "missing": missing,
        "unknown": unknown,
        "of another shape": misshapen,
        "quantised, or no floating-point numbers": no_floats,
    }
    if any(problems.values()):
        raise BadCheckpoint(
            f"{files.folder}: the tensors do not fit config.json ({family.architectures[0]}); nothing was loaded.\n"
            f"{list_problems(problems)}\n"
            "Do config.json and the *.safetensors files come from the same checkpoint?"
        )
    return pairs


def list_problems(problems: Mapping[str, Sequence[str]]) -> str:
    """Lines for an error: every kind with its number and its first members."""
    lines: list[str] = []
    for kind, members in problems.items():
        if members:
            lines += [f"  {len(members)} {kind}:", *(f"    {member}" for member in sorted(members)[:LISTED])]
        if len(members) > LISTED:
            lines.append(f"    … and {len(members) - LISTED} more")
    return "\n".join(lines)
