"""The leaves of a tree by name, and small questions asked of each of them: a checksum, how many values are NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SMALL_BYTES = 1 << 20
"""Up to here a leaf is read on the host: a program for its shape would take longer to compile than the answer."""

_WORDS_AT_ONCE = 1 << 16
_INDEX_FACTOR = np.uint32(0x9E3779B1)
_MIX_FACTORS = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


def leaf_paths(tree: Any) -> dict[str, Any]:
    """``path/to/leaf -> leaf`` in the order of the tree.

    Raises:
      ValueError: two leaves have the same path.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    paths = {jax.tree_util.keystr(path, simple=True, separator="/") or "value": leaf for path, leaf in leaves}
    if len(paths) != len(leaves):
        raise ValueError("two leaves of the tree have the same path; a dictionary key holds a '/'")
    return paths


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key, or the shape of one."""
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def survey(
    leaves: Mapping[str, jax.Array | np.ndarray],
    on_host: Callable[[np.ndarray], Any],
    on_device: Callable[[jax.Array], Any],
) -> dict[str, np.ndarray]:
    """One small answer a leaf, with one wait for the device in all.

    Large leaves, and those that are spread over several hosts, are asked where they are: ``on_device`` (jitted, the
    answer replicated) reads each shard on its own device, so that nothing is gathered. Small ones come to the host.
    """
    at_home = {path for path, leaf in leaves.items() if _is_small(leaf)}
    # Several processes: one leaf after another. On CPUs, collectives in flight take each other's threads, and hang.
    ask = on_device if jax.process_count() == 1 else lambda leaf: jax.block_until_ready(on_device(leaf))
    fetched = jax.device_get({path: leaf if path in at_home else ask(leaf) for path, leaf in leaves.items()})
    return {path: np.asarray(on_host(fetched[path]) if path in at_home else fetched[path]) for path in leaves}


def _is_small(leaf: jax.Array | np.ndarray) -> bool:
    return not isinstance(leaf, jax.Array) or (leaf.is_fully_addressable and leaf.nbytes <= SMALL_BYTES)


def checksums(leaves: Mapping[str, jax.Array | np.ndarray]) -> dict[str, int]:
    """A 32-bit checksum of every leaf's values, the same however the leaf is sharded.

    The values are read as words ``w_i`` (of at most 32 bits, ``i`` the place in row-major order) and summed modulo 2³²
    as ``mix(w_i xor i·c)``, where ``mix`` is the finalizer of MurmurHash3, a bijection. A sum does not depend on the
    order, hence not on the sharding, and takes one pass over the memory of each device. A change within one word is
    always seen; of other changes one in 2³² is missed.
    """
    return {path: int(answer) for path, answer in survey(leaves, _checksum_on_host, _checksum_on_device).items()}


def _mix(word: Any) -> Any:
    word = (word ^ (word >> 16)) * _MIX_FACTORS[0]
    word = (word ^ (word >> 13)) * _MIX_FACTORS[1]
    return word ^ (word >> 16)


def _checksum_on_host(values: np.ndarray) -> np.uint32:
    values = np.ascontiguousarray(_whole_bytes(values)).reshape(-1)
    words = values.view(np.dtype(f"uint{8 * min(values.dtype.itemsize, 4)}"))
    total = np.uint32(0)
    for at in range(0, words.size, _WORDS_AT_ONCE):
        piece = words[at : at + _WORDS_AT_ONCE].astype(np.uint32)
        index = np.arange(at, at + piece.size, dtype=np.uint64).astype(np.uint32)
        total = np.add(total, np.sum(_mix(piece ^ (index * _INDEX_FACTOR)), dtype=np.uint32), dtype=np.uint32)
    return total


@jax.jit
def _checksum_on_device(values: jax.Array) -> jax.Array:
    values = _whole_bytes(values)
    if values.dtype == jnp.bool_:
        words = values.astype(jnp.uint32)
    elif jnp.issubdtype(values.dtype, jnp.complexfloating):
        words = jnp.stack([_words(values.real), _words(values.imag)], axis=-1)
    else:
        words = _words(values)
    index, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for dimension in reversed(range(words.ndim)):
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, dimension)
        index += place * np.uint32(stride % 2**32)
        stride *= words.shape[dimension]
    return jnp.sum(_mix(words ^ (index * _INDEX_FACTOR)), dtype=jnp.uint32)


def _whole_bytes(values: Any) -> Any:
    """Types of less than a byte as float32, which holds each of their values."""
    name = str(values.dtype)
    return values.astype(jnp.float32) if name.startswith(("int4", "uint4", "int2", "uint2", "float4")) else values


def _words(values: jax.Array) -> jax.Array:
    width = jnp.dtype(values.dtype).itemsize
    return jax.lax.bitcast_convert_type(values, jnp.dtype(f"uint{8 * min(width, 4)}")).astype(jnp.uint32)


def count_nonfinite(leaves: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """``path -> (NaN, infinite)`` values of the floating-point leaves that have any."""
    floating = {
        path: leaf
        for path, leaf in leaves.items()
        if isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    # One pass finds the leaves that have any; only these are read again to tell the kinds apart.
    odd = survey(floating, lambda values: ~np.isfinite(values).all(), _any_nonfinite)
    found = {path: floating[path] for path in floating if odd[path]}
    kinds = survey(found, lambda values: np.array([np.isnan(values).sum(), np.isinf(values).sum()]), _kinds)
    return {path: (int(count[0]), int(count[1])) for path, count in kinds.items()}


@jax.jit
def _any_nonfinite(values: jax.Array) -> jax.Array:
    return ~jnp.all(jnp.isfinite(values))


@jax.jit
def _kinds(values: jax.Array) -> jax.Array:
    return nan_and_inf(values)


def nan_and_inf(values: jax.Array) -> jax.Array:
    """int32 ``[2]``: how many values are NaN, how many infinite."""
    return jnp.stack([jnp.sum(jnp.isnan(values), dtype=jnp.int32), jnp.sum(jnp.isinf(values), dtype=jnp.int32)])
