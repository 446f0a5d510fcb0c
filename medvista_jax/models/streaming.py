"""Tensors from disk straight to their place: a block is read, cast and laid down, and nothing else is held.

Peak host memory is one leaf's part for this host beyond what is already placed, and on a CPU not even that: there the
array that was filled *is* the device's memory, if it begins where XLA wants it to.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Sharding

from medvista_jax.core.types import Array
from medvista_jax.models.names import Entry, Index, hub_index, hub_rows, transposed
from medvista_jax.models.tensor_files import Tensor, TensorFiles, copy_block

BLOCK_BYTES = 8 * 2**20
"""Read at a time; also bounds the memory of a cast."""

_ALIGNMENT = 64  # XLA takes over a host array that begins at a multiple of this, and copies any other

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, as they lie on disk."""

Bounds = tuple[tuple[int, int], ...]
"""Start and stop on every axis."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf to load.

    Attributes:
      entry, tensor: where it comes from.
      shape, dtype: what it becomes.
      sharding: where it goes; ``None`` is the default device.
    """

    entry: Entry
    tensor: Tensor
    shape: tuple[int, ...]
    dtype: np.dtype
    sharding: Sharding | None = None

    def local_parts(self) -> list[Bounds]:
        """The different slices that this host's devices need."""
        if self.sharding is None:
            return [_bounds((slice(None),) * len(self.shape), self.shape)]
        indices = self.sharding.addressable_devices_indices_map(self.shape).values()
        return list(dict.fromkeys(_bounds(index, self.shape) for index in indices))

    def local_bytes(self) -> int:
        """Bytes that this host reads."""
        return sum(_size(part) for part in self.local_parts()) * self.tensor.dtype.itemsize


def stream(files: TensorFiles, leaves: Sequence[Leaf], progress: Progress | None = None) -> dict[str, Array]:
    """Loads leaves one by one, in the order in which they lie on disk.

    Returns:
      ``path -> array``.

    Raises:
      BadCheckpoint: a file ends early or cannot be read.
    """
    total = sum(leaf.local_bytes() for leaf in leaves)
    before = files.bytes_read
    placed: dict[str, Array] = {}
    for leaf in sorted(leaves, key=lambda leaf: (leaf.tensor.file, leaf.tensor.start)):
        placed[leaf.entry.path] = load_leaf(files, leaf)
        if progress is not None:
            progress(files.bytes_read - before, total)
    return placed


def load_leaf(files: TensorFiles, leaf: Leaf) -> Array:
    """One leaf on its devices; this host reads only the slices that its own devices need, each once."""
    buffers = {part: _aligned([stop - start for start, stop in part], leaf.dtype) for part in leaf.local_parts()}
    _fill(files, leaf, buffers)
    if leaf.sharding is None:
        (buffer,) = buffers.values()
        array = jax.device_put(buffer)
    else:
        array = jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda index: buffers[_bounds(index, leaf.shape)], dtype=leaf.dtype
        )
    # Transfers run in the background and keep their source; without waiting, several leaves would pile up.
    return array.block_until_ready()


def _fill(files: TensorFiles, leaf: Leaf, buffers: dict[Bounds, np.ndarray]) -> None:
    """Reads what ``buffers`` (part of our leaf -> array) need."""
    shape = hub_rows(leaf.entry, leaf.tensor.shape) or (1,)
    targets: list[tuple[Bounds, np.ndarray]] = []
    for part, buffer in buffers.items():
        index = hub_index(leaf.entry, tuple(slice(*limits) for limits in part)) or (slice(0, 1),)
        out = buffer.T if transposed(leaf.entry) else buffer.reshape(buffer.shape or (1,))
        targets.append((_bounds(index, shape), out))
    whole: Bounds = tuple((0, size) for size in shape)
    if sum(_size(bounds) for bounds, _ in targets) == math.prod(shape):
        # The parts tile the tensor: whole rows in one go, then dealt out, instead of each part's piece of every row.
        jobs = [(whole, targets)]
    else:
        jobs = [(target[0], [target]) for target in targets]
    for region, members in jobs:
        for first, block in _blocks(files, leaf.tensor, region, shape):
            block = block.astype(leaf.dtype, copy=False)  # before it is transposed, as that is faster
            for bounds, out in members:
                _deal(block, first, region, bounds, out)


def _blocks(
    files: TensorFiles, tensor: Tensor, region: Bounds, shape: tuple[int, ...]
) -> Iterator[tuple[int, np.ndarray]]:
    """A region in blocks of rows: the first row's number in the tensor, and the block."""
    (start, stop), *rest = region
    row_bytes = _size(tuple(rest)) * tensor.dtype.itemsize
    rows = max(1, BLOCK_BYTES // max(1, row_bytes))
    for first in range(start, stop, rows):
        index = (slice(first, min(first + rows, stop)), *(slice(*limits) for limits in rest))
        yield first, files.read(tensor.name, index, shape)


def _deal(block: np.ndarray, first: int, region: Bounds, bounds: Bounds, out: np.ndarray) -> None:
    """Copies what a block of ``region`` holds of ``bounds`` into ``out``, whose shape is that of ``bounds``."""
    low, high = max(first, bounds[0][0]), min(first + len(block), bounds[0][1])
    if low < high:
        inner = tuple(
            slice(start - begin, stop - begin) for (start, stop), (begin, _) in zip(bounds[1:], region[1:], strict=True)
        )
        copy_block(out[low - bounds[0][0] : high - bounds[0][0]], block[(slice(low - first, high - first), *inner)])


def _aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that XLA can take over without a copy."""
    nbytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def _bounds(index: Index, shape: tuple[int, ...]) -> Bounds:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _size(bounds: Bounds) -> int:
    return math.prod(stop - start for start, stop in bounds)
