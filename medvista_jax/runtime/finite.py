"""NaN and infinite values: found, named by their tensor, kept out of checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from medvista_jax.runtime.leaves import count_nonfinite, leaf_paths, nan_and_inf

NAMED_TENSORS = 5


class NotFinite(RuntimeError):
    """A step gave NaN or infinite values; nothing of it is in a checkpoint. The message names the tensors."""


@struct.dataclass
class GradientWatch:
    """State of :func:`watch_gradients`.

    Attributes:
      counts_L2: int32, NaN and infinite values of each of the L gradients at the first update that had any.
      paths, sizes: names of the gradients, and how many values they have.
    """

    counts_L2: jax.Array
    paths: tuple[str, ...] = struct.field(pytree_node=False)
    sizes: tuple[int, ...] = struct.field(pytree_node=False)


def watch_gradients() -> optax.GradientTransformation:
    """First in an optimizer's chain: remembers which gradients were the first to be not finite.

    A clip by the global norm spreads one NaN over all parameters, so that the state after the step does not tell where
    it came from. The gradients pass unchanged; they are counted only where their norm, which the clip computes anyway,
    is not finite.
    """

    def init(params: optax.Params) -> GradientWatch:
        leaves = leaf_paths(params)
        sizes = tuple(int(leaf.size) for leaf in leaves.values())
        return GradientWatch(jnp.zeros((len(leaves), 2), jnp.int32), tuple(leaves), sizes)

    def update(
        updates: optax.Updates, state: GradientWatch, params: optax.Params | None = None
    ) -> tuple[optax.Updates, GradientWatch]:
        leaves = jax.tree.leaves(updates)
        fine = jnp.isfinite(optax.tree.norm(updates)) | jnp.any(state.counts_L2 > 0)
        count = lambda: jnp.stack([nan_and_inf(leaf) for leaf in leaves])  # noqa: E731
        return updates, state.replace(counts_L2=jax.lax.cond(fine, lambda: state.counts_L2, count))

    return optax.GradientTransformation(init, update)


class FiniteCheck:
    """Knows which tensors of a state were not finite at the start (a frozen mask of -inf, say), and names new ones."""

    def __init__(self, state: Any) -> None:
        self._from_the_start = set(count_nonfinite(leaf_paths(state)))

    def blame(self, state: Any) -> list[str]:
        """A line for every tensor that has become not finite: gradients where the optimizer watches them, else the
        state's own leaves. Empty when all is well. Reads the whole state once on its device and waits for it."""
        leaves = leaf_paths(state)
        found = {path: count for path, count in count_nonfinite(leaves).items() if path not in self._from_the_start}
        is_watch = lambda node: isinstance(node, GradientWatch)  # noqa: E731
        for watch in filter(is_watch, jax.tree.leaves(state, is_leaf=is_watch)):
            counts_L2 = jax.device_get(watch.counts_L2)
            named = zip(watch.paths, watch.sizes, counts_L2.tolist(), strict=True)
            if lines := [describe(f"gradient of {path}", size, *count) for path, size, count in named if any(count)]:
                return lines
        return [describe(path, leaves[path].size, *count) for path, count in found.items()]


def describe(name: str, size: int, nan: int, infinite: int) -> str:
    """``decoder/layer_3/q/kernel: 12 of 4096 values are NaN``."""
    parts = [f"{nan} of {size} values are NaN"] if nan else []
    parts += [f"{infinite} of {size} values are infinite"] if infinite else []
    return f"{name}: {', '.join(parts)}"


def listed(lines: Iterable[str]) -> str:
    """The first few lines, each indented, and how many more there are."""
    lines = list(lines)
    more = len(lines) - NAMED_TENSORS
    shown = [f"  {line}" for line in lines[:NAMED_TENSORS]]
    return "\n".join(shown + ([f"  … and {more} more"] if more > 0 else []))
