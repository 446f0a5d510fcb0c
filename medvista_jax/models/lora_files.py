"""Adapters on disk, as PEFT writes and reads them: ``adapter_model.safetensors`` and ``adapter_config.json``.

A hub module ``NAME`` with weight W (``[out, in]``) has ``base_model.model.NAME.lora_A.weight`` (``[r, in]``) and
``base_model.model.NAME.lora_B.weight`` (``[out, r]``) and stands for ``W + (lora_alpha / r) · B A``. For a convolution
A is one to ``r`` channels and B one whose windows are single points. ``NAME`` is what transformers calls the module *in
memory*; where that differs from the name on disk, the family's ``params.py`` says how in ``IN_MEMORY``: (regex on the
name on disk, replacement), the first that is found counts. Adapters with the names on disk are read too.

Families without a hub (``medvista_tiny``) are named by our paths, with dots.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array, Params
from medvista_jax.models.adaptable import Adaptable
from medvista_jax.models.families import FAMILIES
from medvista_jax.models.lora import (
    A,
    B,
    Model,
    adapter_shapes,
    adapters_of,
    modules,
    with_adapters,
    with_modules,
)
from medvista_jax.models.names import Entry, Layout
from medvista_jax.models.shard_writer import ShardWriter, write_text
from medvista_jax.models.tensor_files import BadCheckpoint, Tensor, read_header, read_json

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

_TENSOR = "base_model.model.{name}.lora_{letter}.weight"
_NAME = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight")
_HALF = {"A": A, "B": B}
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
"""PEFT's settings that change what the tensors mean."""


@dataclasses.dataclass(frozen=True)
class HubModule:
    """A module that can be adapted, as the hub sees it.

    Attributes:
      path: ours.
      names: what it is called in memory, on disk, and in older checkpoints.
      window: channels and window of a convolution; empty for a linear module.
    """

    path: str
    names: tuple[str, ...]
    window: tuple[int, ...] = ()

    def shape_on_disk(self, half: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the tensor whose leaf, A or B, has this shape."""
        if half == A:
            return shape[1], *(self.window or shape[:1])
        return shape[1], shape[0], *(1 for _ in self.window[1:])


def save_adapters(model: Adaptable, params: Params, folder: str | Path) -> None:
    """Writes the adapters, in float32, as PEFT's ``save_pretrained`` does.

    Raises:
      ValueError: the model has no adapters, or the parameters lack some.
    """
    pairs, known = adapters_of(model, params), hub_modules(model)
    arrays = {}
    for path, pair in pairs.items():
        for (letter, half), leaf in zip(_HALF.items(), pair, strict=True):
            shape = known[path].shape_on_disk(half, leaf.shape)
            name = _TENSOR.format(name=known[path].names[0], letter=letter)
            arrays[name] = np.asarray(leaf, np.float32).T.reshape(shape)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder / WEIGHTS, [Tensor(name, x.dtype, x.shape) for name, x in arrays.items()]) as file:
        for array in arrays.values():
            file.append(array)
    source = getattr(model, "source", None)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": source.folder if source is not None else None,
        "r": model.adapters.rank,
        "lora_alpha": model.adapters.alpha,
        "target_modules": _target_modules(model, {known[path].names[0] for path in pairs}),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def load_adapters(folder: str | Path, model: Model, params: Params) -> tuple[Model, Params]:
    """The model and its parameters with the adapters of a folder, written here or by PEFT; float32.

    Dropout, which only counts in training, is not taken over.

    Raises:
      BadCheckpoint: no adapters there, a setting that is not supported, or tensors that are unknown, missing or of
        another shape; one error names them all.
      ValueError: the model or the parameters have adapters already, or the rank fits badly
        (:func:`medvista_jax.models.lora.with_adapters`).
    """
    folder = Path(folder)
    _check_files(folder)
    settings = read_json(folder / CONFIG)
    rank, alpha = _rank_and_alpha(settings, folder / CONFIG)
    tensors, known = read_header(folder / WEIGHTS), hub_modules(model)
    places, wrong = _places(tensors, known)
    chosen = sorted({path for path, _ in places})
    wrong += _missing(places, chosen, known, settings)
    if not chosen:
        raise BadCheckpoint(_misfit(folder, wrong or ["it holds no adapters"]))
    adapted = with_modules(model, rank, alpha, chosen)
    shapes = adapter_shapes(adapted)
    for (path, half), tensor in places.items():
        wanted = known[path].shape_on_disk(half, shapes[path + half])
        if tensor.shape != wanted:
            wrong.append(f"misshapen: {tensor.name} is {list(tensor.shape)}; r = {rank} wants {list(wanted)}")
    if wrong:
        raise BadCheckpoint(_misfit(folder, wrong))
    leaves = {path + half: _leaf(tensor, shapes[path + half]) for (path, half), tensor in places.items()}
    return adapted, with_adapters(adapted, params, leaves)


def hub_modules(model: Adaptable) -> dict[str, HubModule]:
    """Path -> module, of all modules that can be adapted."""
    in_memory = getattr(_family_params(model), "IN_MEMORY", ())
    found = {entry.path.removesuffix("/kernel"): entry for entry in _entries(model)}
    table = {}
    for path in modules(model):
        entry = found[path]
        names = (_in_memory(entry.hub, in_memory), entry.hub, *entry.aliases)
        window = entry.hub_shape[1:] if entry.layout is Layout.PATCHES else ()
        table[path] = HubModule(path, tuple(dict.fromkeys(n.removesuffix(".weight") for n in names)), window)
    return table


def _family_params(model: Adaptable) -> types.ModuleType | None:
    """``params.py`` of the model's family, if it has one."""
    homes = [family for family in FAMILIES.values() if type(model).__module__.startswith(f"{family.package}.")]
    return homes[0].params() if homes else None


def _entries(model: Adaptable) -> tuple[Entry, ...]:
    """Entries of the family; for one without a hub, those of its kernels."""
    params = _family_params(model)
    if params is not None:
        return params.entries(model.config)
    return tuple(Entry(path.replace("/", ".") + ".weight", f"{path}/kernel", Layout.LINEAR) for path in modules(model))


def _in_memory(name: str, renamed: Collection[tuple[str, str]]) -> str:
    for pattern, replacement in renamed:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name


def _target_modules(model: Adaptable, chosen: set[str]) -> list[str]:
    """Last parts of the names if they mean these modules and no others, as PEFT reads them; else whole names."""
    in_memory = getattr(_family_params(model), "IN_MEMORY", ())
    every = {_in_memory(entry.hub, in_memory).rpartition(".")[0] for entry in _entries(model)}
    last = sorted({name.rpartition(".")[2] for name in chosen})
    # A number would also mean whole layers.
    if any(name.isdigit() for name in last) or {name for name in every if _targets(last, name)} != chosen:
        return sorted(chosen)
    return last


def _targets(target_modules: Any, name: str) -> bool:
    """Whether PEFT's ``target_modules`` means the module."""
    if target_modules == "all-linear":
        return True
    if isinstance(target_modules, str):
        return re.fullmatch(target_modules, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in target_modules or ())


def _check_files(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise BadCheckpoint(f"{folder} has no {CONFIG}, so it holds no adapters; give the folder that PEFT wrote")
    if not (folder / WEIGHTS).is_file():
        if (folder / "adapter_model.bin").is_file():
            raise BadCheckpoint(
                f"{folder / 'adapter_model.bin'} is a pickle, which is never opened: it can run any code. Save the "
                "adapters again with PEFT's save_pretrained(safe_serialization=True)"
            )
        raise BadCheckpoint(f"{folder} lacks {WEIGHTS}")


def _rank_and_alpha(settings: Mapping[str, Any], file: Path) -> tuple[int, float]:
    """Rank and the alpha that goes with ``alpha / rank``."""
    kind, rank, alpha = settings.get("peft_type"), settings.get("r"), settings.get("lora_alpha")
    if kind != "LORA":
        raise BadCheckpoint(f"{file}: peft_type {kind!r} is not supported, only 'LORA'")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or not alpha > 0:
        raise BadCheckpoint(f"{file}: r = {rank!r} and lora_alpha = {alpha!r} must be a whole and a positive number")
    unknown = [name for name in _UNSUPPORTED if settings.get(name)]
    if unknown or settings.get("bias", "none") != "none":
        raise BadCheckpoint(f"{file} sets {', '.join(unknown) or 'bias'}, which is not supported; merge it with PEFT")
    return rank, alpha * math.sqrt(rank) if settings.get("use_rslora") else float(alpha)


def _places(
    tensors: Mapping[str, Tensor], known: Mapping[str, HubModule]
) -> tuple[dict[tuple[str, str], Tensor], list[str]]:
    """(path, half) -> tensor, and complaints about tensors that have no place."""
    path_of = {name: module.path for module in reversed(known.values()) for name in reversed(module.names)}
    places: dict[tuple[str, str], Tensor] = {}
    wrong = []
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        path = path_of.get(match[1]) if match else None
        if path is None:
            wrong.append(f"unknown: {name}")
        elif (path, _HALF[match[2]]) in places:
            wrong.append(f"twice: {name} and {places[path, _HALF[match[2]]].name}")
        else:
            places[path, _HALF[match[2]]] = tensor
    return places, wrong


def _missing(
    places: Collection[tuple[str, str]],
    chosen: Collection[str],
    known: Mapping[str, HubModule],
    settings: Mapping[str, Any],
) -> list[str]:
    """Complaints about halves without the other half, and about modules that ``target_modules`` names."""
    wanted = set(chosen)
    # These narrow target_modules down further; then the tensors alone say what is adapted.
    if not any(settings.get(name) for name in ("exclude_modules", "layers_to_transform", "layers_pattern")):
        target = settings.get("target_modules")
        if target != "all-linear":
            wanted |= {path for path, module in known.items() if _targets(target, module.names[0])}
    return [
        f"missing: {_TENSOR.format(name=known[path].names[0], letter=letter)}"
        for path in sorted(wanted)
        for letter, half in _HALF.items()
        if (path, half) not in places
    ]


def _leaf(tensor: Tensor, shape: tuple[int, ...]) -> Array:
    raw = np.fromfile(tensor.file, tensor.dtype, math.prod(tensor.shape), offset=tensor.start)
    return jnp.asarray(raw.reshape(shape[::-1]).T, jnp.float32)


def _misfit(folder: Path, wrong: list[str], most: int = 40) -> str:
    listed = wrong[:most] + [f"and {len(wrong) - most} more"] * (len(wrong) > most)
    return "\n  ".join((f"{folder / WEIGHTS} does not fit the model:", *listed))
