"""Which families can be loaded, and how one is recognised by a folder's ``config.json``."""

from __future__ import annotations

import dataclasses
import importlib
import json
import types
from pathlib import Path
from typing import Any

from medvista_jax.models.decoder_params import ADAPTER_RULES
from medvista_jax.models.medvista_tiny.modeling import RULES as TINY_RULES
from medvista_jax.models.medvista_tiny.modeling import MedVistaTiny
from medvista_jax.models.names import Entry
from medvista_jax.models.preprocess.hub_config import levels_of
from medvista_jax.models.tensor_files import BadCheckpoint, check_folder, read_json
from medvista_jax.runtime.sharding import Rules


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of models, imported when it is needed.

    The package holds the model class, a frozen dataclass after :class:`medvista_jax.models.hub_model.HubModel`. Its
    ``params`` module holds ``config_from_hub(config)``, ``entries(config)`` and ``RULES``, and may hold ``IGNORED``:
    regexes on names of tensors that checkpoints carry and the model does not need, and ``IN_MEMORY``: what transformers
    calls tensors in memory where that is not their name on disk (see :mod:`medvista_jax.models.lora_files`).

    Attributes:
      package: where it lives.
      model: name of the model class.
      architectures: what ``config.json`` may call it.
      transformers: whether transformers knows it; if not, ``config_from_hub`` is given the JSON as a dict.
    """

    package: str
    model: str
    architectures: tuple[str, ...]
    transformers: bool = True

    def params(self) -> types.ModuleType:
        return importlib.import_module(f"{self.package}.params")

    def model_class(self) -> Any:
        return getattr(importlib.import_module(self.package), self.model)

    def entries(self, config: Any) -> tuple[Entry, ...]:
        return self.params().entries(config)

    def ignored(self) -> tuple[str, ...]:
        return (*IGNORED, *getattr(self.params(), "IGNORED", ()))


FAMILIES: dict[str, Family] = {
    "qwen3_vl": Family("medvista_jax.models.qwen3_vl", "Qwen3VL", ("Qwen3VLForConditionalGeneration",)),
    "qwen2_5_vl": Family("medvista_jax.models.qwen2_5_vl", "Qwen25VL", ("Qwen2_5_VLForConditionalGeneration",)),
    "internvl": Family("medvista_jax.models.internvl", "InternVL", ("InternVLForConditionalGeneration",)),
    "medvista_smol": Family(
        "medvista_jax.models.medvista_smol",
        "MedVistaSmol",
        ("MedVistaSmolForConditionalGeneration",),
        transformers=False,
    ),
}
"""``model_type`` of ``config.json`` -> family."""


def sharding_rules(model: Any) -> Rules:
    """(regex on the path, specification) for the parameters of a model, adapters included.

    Raises:
      ValueError: a model of no known family.
    """
    if isinstance(model, MedVistaTiny):
        return (*TINY_RULES, *ADAPTER_RULES)
    for family in FAMILIES.values():
        if type(model).__module__.startswith(f"{family.package}."):
            return (*family.params().RULES, *ADAPTER_RULES)
    raise ValueError(f"no sharding rules are known for a {type(model).__name__}; give its family a RULES list")


IGNORED = (r"\.rotary_emb\.inv_freq$",)
"""Tensors of old checkpoints that hold nothing: the rotary frequencies follow from the configuration."""

_HINTS = {
    "internvl_chat": "its conversion to transformers, with a name that ends in -hf, is",
    "medvista_tiny": "medvista_jax.models.medvista_tiny.folder.read_folder opens it",
}


def family_of(folder: str | Path) -> tuple[Family, str]:
    """The family of a folder, and the text of its ``config.json``.

    Raises:
      BadCheckpoint: no model folder, or an architecture that is not supported.
    """
    path = check_folder(folder) / "config.json"
    config = read_json(path)
    return family_of_config(config, path), path.read_text(encoding="utf-8")


def family_of_config(config: dict[str, Any], origin: str | Path = "config.json") -> Family:
    """The family that a ``config.json`` describes.

    Raises:
      BadCheckpoint: it is not supported.
    """
    kind = config.get("model_type")
    names = config.get("architectures") or []
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None or (names and not set(family.architectures) & set(map(str, names))):
        known = ", ".join(f"{one.architectures[0]} (model_type {name})" for name, one in FAMILIES.items())
        hint = f"; {_HINTS[kind]}" if kind in _HINTS else ""
        raise BadCheckpoint(
            f"{origin}: architecture {', '.join(map(str, names)) or '(not named)'} with model_type {kind!r} is not "
            f"supported{hint}. Supported: {known}"
        )
    if config.get("quantization_config"):
        raise BadCheckpoint(f"{origin}: the weights are quantised; get the checkpoint in bfloat16 or float32")
    return family


def read_config(family: Family, folder: str | Path) -> Any:
    """The family's configuration from a folder: ``config.json``, and the levels of the image processor's settings.

    Raises:
      BadCheckpoint: ``config.json`` is damaged, or asks for what is not ported.
    """
    path = Path(folder) / "config.json"
    try:
        config = family.params().config_from_hub(_hub_config(folder) if family.transformers else read_json(path))
    except BadCheckpoint:
        raise
    except ValueError as error:
        raise BadCheckpoint(f"{path}: {error}") from error
    try:
        mean, std = levels_of(folder, config.image_mean, config.image_std)
    except ValueError as error:
        raise BadCheckpoint(str(error)) from error
    return dataclasses.replace(config, image_mean=mean, image_std=std)


def _hub_config(folder: str | Path) -> Any:
    from huggingface_hub.errors import StrictDataclassError  # late: transformers takes seconds to import
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (ValueError, TypeError, KeyError, AttributeError, OSError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise BadCheckpoint(f"{Path(folder) / 'config.json'} is not understood by transformers: {reason}") from error


def with_tied(config: Any, tied: bool) -> Any:
    """The configuration with a head of its own or without."""
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, tied=tied))


def config_to_save(text: str, family: Family, dtype: str, tied: bool) -> str:
    """``config.json`` for parameters of ``dtype``.

    transformers casts to the dtype that the file names, and takes the embeddings for the head where it says so.
    """
    config = json.loads(text)
    if family.transformers:
        config.setdefault("dtype" if "torch_dtype" not in config else "torch_dtype", dtype)
        config["tie_word_embeddings"] = tied  # left out, it means yes in some families and no in others
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = dtype
        if "tie_word_embeddings" in part:
            part["tie_word_embeddings"] = tied
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"
