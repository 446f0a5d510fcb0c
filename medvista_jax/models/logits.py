"""``python -m medvista_jax.models logits``: logits of hub-style inputs from a file to a file."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from medvista_jax.core.types import Params
from medvista_jax.models.hub_model import HubModel
from medvista_jax.models.inputs import BadInputs, hub_batch, hub_logits

WANTED = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
"""Arrays that count; only the first must be there."""


def read_inputs(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays of an ``.npz`` file by name, and the names of those that nobody asks for.

    Raises:
      BadInputs: no such file, no ``.npz``, pickled objects inside (they are not opened), no ``input_ids``.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files if name in WANTED}
            others = [name for name in stored.files if name not in WANTED]
    except FileNotFoundError:
        raise BadInputs(f"no inputs at {path}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise BadInputs(f"{path} is no .npz file of plain arrays ({error}); write it with numpy.savez") from None
    if "input_ids" not in found:
        raise BadInputs(f"{path} has no array 'input_ids'; it holds {', '.join(others + list(found)) or 'nothing'}")
    return found, others


def run(model: HubModel, params: Params, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """float32 logits ``[B, T, V]``; see :func:`medvista_jax.models.inputs.hub_batch`."""
    return np.asarray(hub_logits(model, params, hub_batch(model, params, **inputs)))


def check_writable(path: Path) -> None:
    """Raises BadInputs where :func:`write` would fail: better before the work than after it."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "is a folder" if path.is_dir() else "lies in a folder that does not exist"
        raise BadInputs(f"cannot write {path}: it {what}")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise BadInputs(f"cannot write {path}: permission denied")


def write(path: Path, logits_BTV: np.ndarray) -> None:
    """The array ``logits`` in an ``.npz`` file at exactly this path."""
    with path.open("wb") as file:
        np.savez(file, logits=logits_BTV)
