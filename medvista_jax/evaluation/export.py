"""Models of training runs as hub folders: adapters merged, frozen halves joined, a card with the run's own numbers.

    export(Path("runs/quickstart"), Path("out/tiny"))

Hub families keep the names and files of their family, so that transformers opens the folder; ``medvista_tiny`` has a
layout of its own (:mod:`medvista_jax.models.medvista_tiny.folder`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from safetensors import SafetensorError
from safetensors.numpy import load_file

from medvista_jax import models
from medvista_jax.core.types import Params
from medvista_jax.evaluation.model_card import Exported, model_card
from medvista_jax.evaluation.run_record import PolicyRecord, Provenance, RunRecord, read_record
from medvista_jax.evaluation.setting import Setting
from medvista_jax.evaluation.tables import read_rows
from medvista_jax.models.families import FAMILIES
from medvista_jax.models.lora import merge, with_lora
from medvista_jax.models.lora_files import CONFIG, load_adapters
from medvista_jax.models.medvista_tiny.folder import MODEL_TYPE, write_folder
from medvista_jax.models.names import flatten, nest
from medvista_jax.models.shard_writer import SHARD_BYTES, write_text
from medvista_jax.runtime.new_folder import new_folder
from medvista_jax.text.tiny_files import write_text_files
from medvista_jax.tools.registry import DEFAULT_TOOLS

NEEDED = ("preprocessor_config.json", "tokenizer_config.json")
"""Without these transformers cannot prepare what a hub model reads; a ``tokenizer.json`` is asked for before."""

_TINY_USAGE = """
from medvista_jax.models.medvista_tiny.folder import read_folder
from medvista_jax.text.tokenizer import SentencePieceTokenizer

model, params = read_folder("THIS_FOLDER")
tokenizer = SentencePieceTokenizer("THIS_FOLDER/tokenizer.model")
"""
_SMOL_USAGE = """
from medvista_jax import models
from medvista_jax.text.hub_chat import load_chat

model, params = models.load("THIS_FOLDER")
chat = load_chat("THIS_FOLDER")
"""
_HUB_USAGE = """
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("THIS_FOLDER")
processor = AutoProcessor.from_pretrained("THIS_FOLDER")

# or, in JAX:
from medvista_jax import models

model, params = models.load("THIS_FOLDER")
"""


def export(
    run: Path,
    out: Path,
    policy: str | None = None,
    seed: int | None = None,
    base: Path | None = None,
    base_model: Sequence[str] = (),
    licence: str = "",
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Writes a policy of a run as a hub folder, complete or not at all.

    Args:
      run: folder with ``run.json`` and ``table.json``.
      out: folder to write; must be new or empty unless ``overwrite`` is set.
      policy: name in ``run.json``; the run's last by default.
      seed: whose weights; the run's first by default.
      base: where the hub folder that the run started from is now; where the run found it by default.
      base_model: hub names for the card's header, in place of those that the run knows.
      licence: of the weights, as the hub abbreviates it, in place of the one that the run knows.
      overwrite: replaces a model folder.
      shard_bytes: most bytes of a file of weights.

    Raises:
      FileNotFoundError, FileExistsError, ValueError, OSError: one line that says what is wrong and how to mend it.
    """
    record, rows = read_record(run), _rows(run)
    policy, seed = policy or list(record.policies)[-1], record.seeds[0] if seed is None else seed
    if policy not in record.policies:
        raise ValueError(f"{run} has no policy {policy!r}; it has {', '.join(record.policies)}")
    if seed not in record.seeds:
        raise ValueError(f"{run} has no seed {seed}; it has {', '.join(map(str, record.seeds))}")
    record = dataclasses.replace(
        record, base_models=tuple(base_model) or record.base_models, licence=licence or record.licence
    )
    weights = record.policies[policy]
    model, params = open_policy(run, record, weights, seed, base)
    if record.family != MODEL_TYPE and not (Path(model.source.folder) / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"{model.source.folder} has no tokenizer.json; copy it from where its weights come from"
        )
    adapted = model.adapters
    model, params = merge(model, params) if adapted is not None else (model, params)
    leaves = jax.tree.leaves(params)
    exported = Exported(
        policy=policy,
        seed=seed,
        parameters=sum(leaf.size for leaf in leaves),
        dtype=", ".join(sorted({str(leaf.dtype) for leaf in leaves})),
        merged="" if adapted is None else _merged(adapted),
        usage=_usage(record.family),
        files=(),
        made=Provenance.now(),
    )
    model_card(record, rows, exported)  # a table that does not fit is said before gigabytes are written
    with new_folder(out, sum(leaf.nbytes for leaf in leaves), overwrite) as place:
        if record.family == MODEL_TYPE:
            files = _write_tiny(model, params, _setting(record), place, shard_bytes)
        else:
            files = _write_hub(model, params, place, shard_bytes)
        exported = dataclasses.replace(exported, files=files)
        write_text(place / "README.md", model_card(record, rows, exported))
    return exported


def open_policy(
    run: Path, record: RunRecord, weights: PolicyRecord, seed: int, base: Path | None = None
) -> tuple[Any, Params]:
    """The model of a policy with all its parameters; adapters are still apart.

    Raises:
      FileNotFoundError: weights or base are not there.
      BadCheckpoint, ValueError: they do not fit each other.
    """
    path = run / weights.path.format(seed=seed)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}; has the run finished this stage?")
    if record.family == MODEL_TYPE:
        return _setting(record).model, nest(_read_leaves(path))
    if record.family not in FAMILIES:
        raise ValueError(f"family {record.family!r} is unknown; there are {MODEL_TYPE}, {', '.join(FAMILIES)}")
    if weights.base is None:
        return models.load(path)
    folder = base or run / weights.base  # an absolute path stays what it is
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no hub folder at {folder}, which the run started from; name it with --base")
    model, params = models.load(folder)
    if (path / CONFIG).is_file():
        return load_adapters(path, model, params)
    model = with_lora(model, weights.lora) if weights.lora is not None else model
    found, flat = _read_leaves(path), flatten(params)
    strange = [name for name in found if name not in flat and "kernel_lora_" not in name]
    if strange:
        raise ValueError(f"{path} has leaves that {folder} lacks: {', '.join(strange[:3])}; is it the run's own base?")
    return model, nest(flat | found)


def _read_leaves(path: Path) -> dict[str, jax.Array]:
    try:
        return {name: jnp.asarray(leaf) for name, leaf in load_file(path).items()}
    except (SafetensorError, IsADirectoryError) as error:
        raise ValueError(f"{path} is no file of weights that can be read: {error}") from None


def _rows(run: Path) -> list[dict[str, Any]]:
    path = run / "table.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; a model is not exported without its numbers")
    try:
        return read_rows(path)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no table of results: {error}") from None


def _setting(record: RunRecord) -> Setting:
    try:
        return Setting(**record.settings["setting"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the run's record does not describe its setting: {error}") from None


def _merged(adapters: Any) -> str:
    count = len(adapters.modules)
    return f"LoRA of rank {adapters.rank}, alpha {adapters.alpha:g}, on {count} modules, is merged into the weights."


def _usage(family: str) -> str:
    if family == MODEL_TYPE:
        return _TINY_USAGE
    return _HUB_USAGE if FAMILIES[family].transformers else _SMOL_USAGE


def _write_tiny(model: Any, params: Params, setting: Setting, place: Path, shard_bytes: int) -> tuple[str, ...]:
    gym = {"gym": {**dataclasses.asdict(setting), "tools": list(DEFAULT_TOOLS)}}
    write_folder(model, params, place, gym, shard_bytes)
    write_text_files(setting.tokenizer, place, setting.turn_tokens)
    return (
        "transformers has no class for this family. `config.json` holds its sizes; `model.safetensors` holds a tensor "
        "for each leaf, kernels `[in, out]`; `tokenizer.model` is SentencePiece; an image is grey, resized to "
        f"{model.image_size[0]} × {model.image_size[1]} (linear, antialiased) and becomes (level − 127.5) / 64.",
    )


def _write_hub(model: Any, params: Params, place: Path, shard_bytes: int) -> tuple[str, ...]:
    models.save(model, params, place / "model", shard_bytes)  # it makes its own folder
    for path in (place / "model").iterdir():
        path.rename(place / path.name)
    (place / "model").rmdir()
    notes = []
    lost = [name for name in NEEDED if not (place / name).is_file()]
    if lost:
        notes.append(f"The base folder had no {', '.join(lost)}: the processor must be taken from elsewhere.")
    if not _has_template(place):
        notes.append("The base folder had no chat template.")
    if not (place / "generation_config.json").is_file():
        ends = _ends(place)
        if ends:
            write_text(place / "generation_config.json", json.dumps(ends, indent=2) + "\n")
            notes.append("`generation_config.json` was made from the tokenizer's and the model's special ids.")
        else:
            notes.append("The base folder had no generation_config.json and names no end of a sequence.")
    return tuple(notes)


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("chat_template"))


def _ends(folder: Path) -> dict[str, Any]:
    """Ids of beginning, end and padding: of the model's configuration, else of the tokenizer's symbols."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or {}
    path = folder / "tokenizer_config.json"
    symbols = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens", [])
    ids = {token["content"]: token["id"] for token in added}
    found = {}
    for name in ("bos", "eos", "pad"):
        symbol = symbols.get(f"{name}_token")
        symbol = symbol.get("content") if isinstance(symbol, dict) else symbol
        index = ids.get(symbol, text.get(f"{name}_token_id", config.get(f"{name}_token_id")))
        if index is not None:
            found[f"{name}_token_id"] = index
    return found if "eos_token_id" in found else {}
