"""``python -m medvista_jax.models logits``: logits of hub-style inputs from a file to a file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from medvista_jax.core.types import Params
from medvista_jax.models.hub_model import HubModel
from medvista_jax.models.inputs import hub_batch, hub_logits

WANTED = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
"""Arrays that count; only the first must be there."""


def read_inputs(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays of an ``.npz`` file by name, and the names of those that nobody asks for.

    Raises:
      ValueError: no such file, no ``.npz``, pickled objects inside (they are not opened), no ``input_ids``.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files if name in WANTED}
            others = [name for name in stored.files if name not in WANTED]
    except FileNotFoundError:
        raise ValueError(f"no inputs at {path}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} is no .npz file of plain arrays ({error}); write it with numpy.savez") from None
    if "input_ids" not in found:
        raise ValueError(f"{path} has no array 'input_ids'; it holds {', '.join(others + list(found)) or 'nothing'}")
    return found, others


def run(model: HubModel, params: Params, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """float32 logits ``[B, T, V]``; see :func:`medvista_jax.models.inputs.hub_batch`."""
    return np.asarray(hub_logits(model, params, hub_batch(model, params, **inputs)))


def write(path: Path, logits_BTV: np.ndarray) -> dict[str, Any]:
    """The logits as ``logits`` in an ``.npz`` file at exactly this path.

    Raises:
      ValueError: the folder does not exist or cannot be written to.
    """
    try:
        with path.open("wb") as file:
            np.savez(file, logits=logits_BTV)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None
    return {"rows": logits_BTV.shape[0], "tokens": logits_BTV.shape[1], "vocabulary": logits_BTV.shape[2]}
