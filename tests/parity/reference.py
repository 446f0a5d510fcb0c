"""transformers' own models, small and random, beside our ports of them. The only place where torch is imported.

*All* parameters are perturbed, norms and biases too, so that a wrong default, a forgotten bias or a swapped norm shows.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel

from medvista_jax.models.hub_model import HubModel
from medvista_jax.models.inputs import Batch, hub_batch, hub_logits

torch.set_num_threads(1)  # results do not hang on how sums are split among threads

TOLERANCE = 1e-4
"""Of the largest reference logit. float32 sums in another order differ by about 1e-6 of it here; a forgotten bias, a
shifted position or a norm before instead of behind a merge by more than 1e-2 (see the negative tests)."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same weights twice."""

    theirs: PreTrainedModel
    model: HubModel
    params: Any
    folder: Path


def perturb(model: torch.nn.Module, seed: int) -> None:
    """Random values for every parameter: matrices of unit gain, norms around 1, everything else around 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                around = 1.0 if name.endswith("weight") else 0.0
                parameter.copy_(around + 0.2 * noise)
            elif "embed" in name and "proj" not in name:
                parameter.copy_(0.7 * noise)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)


def make_pair(config: Any, cls: type[PreTrainedModel], load: Any, seed: int = 0, dtype: Any = jnp.float32) -> Pair:
    """A random model of ``cls`` saved in the hub's layout, and ours read from there.

    Args:
      load: ``(folder, dtype) -> (model, params)``.
    """
    torch.manual_seed(seed)
    theirs = cls._from_config(config, attn_implementation="eager").eval()
    perturb(theirs, seed)
    folder = Path(tempfile.mkdtemp(prefix="parity-"))
    theirs.save_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).model_type == config.model_type
    model, params = load(folder, dtype)
    return Pair(theirs, model, params, folder)


def assemble(
    rows: Sequence[Sequence[int]], left: Sequence[bool] | bool = False, pad: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids to ``input_ids`` and ``attention_mask``, padded on the side that each row wants."""
    sides = [left] * len(rows) if isinstance(left, bool) else left
    width = max(map(len, rows))
    ids, mask = np.full((len(rows), width), pad, np.int64), np.zeros((len(rows), width), np.int64)
    for row, (said, at_left) in enumerate(zip(rows, sides, strict=True)):
        place = slice(width - len(said), width) if at_left else slice(0, len(said))
        ids[row, place], mask[row, place] = said, 1
    return ids, mask


def their_logits(pair: Pair, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """float32 logits ``[B, T, V]`` of transformers."""
    with torch.no_grad():
        return pair.theirs(**tensors(pair, inputs)).logits.float().numpy()


def tensors(pair: Pair, inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Inputs for transformers; M-RoPE models also want to know which ids are images."""
    out = {name: torch.tensor(value) for name, value in inputs.items()}
    for name, value in out.items():
        if value.is_floating_point():
            out[name] = value.to(pair.theirs.dtype)
    if "image_grid_thw" in inputs:
        out["mm_token_type_ids"] = (out["input_ids"] == pair.model.config.image_token).long()
    return out


def our_batch(pair: Pair, inputs: dict[str, np.ndarray], params: Any = None, model: HubModel | None = None) -> Batch:
    return hub_batch(model or pair.model, pair.params if params is None else params, **inputs)


def our_logits(
    pair: Pair, inputs: dict[str, np.ndarray], params: Any = None, model: HubModel | None = None
) -> np.ndarray:
    """float32 logits ``[B, T, V]`` of the port."""
    params = pair.params if params is None else params
    return np.asarray(hub_logits(model or pair.model, params, our_batch(pair, inputs, params, model)))


def gap(ours: np.ndarray, theirs: np.ndarray, mask: np.ndarray) -> float:
    """Largest difference at real tokens, as a share of the largest reference logit."""
    there = mask.astype(bool)
    return float(np.abs(ours - theirs)[there].max() / np.abs(theirs[there]).max())


def changed(params: Any, path: str, change: Any) -> Any:
    """The parameters with one leaf (or every leaf under a path) changed."""
    hit = []

    def visit(keys, leaf):
        name = "/".join(str(key.key) for key in keys)
        if not (name == path or name.startswith(path + "/")):
            return leaf
        hit.append(name)
        return change(leaf)

    out = jax.tree.map_with_path(visit, params)
    assert hit, f"no leaf under {path}"
    return out
