"""Writes tensors as a hub-layout folder has them: safetensors shards with their index.

The format is described in :mod:`medvista_jax.models.tensor_files`.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvista_jax.models.tensor_files import DTYPES, INDEX, SINGLE, Tensor, copy_block

SHARD_BYTES = 2_000_000_000
"""Bytes of a written shard; a tensor that is larger has a shard to itself."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_BLOCK_BYTES = 16 * 2**20


def plan_shards(tensors: Iterable[Tensor], shard_bytes: int = SHARD_BYTES) -> dict[str, tuple[Tensor, ...]]:
    """File name -> the tensors it shall hold, in the order in which they have to be written.

    Args:
      tensors: names, dtypes, shapes; at least one.
      shard_bytes: most bytes of tensors in a file.

    Raises:
      ValueError: nothing to write, a name twice, a dtype that the format lacks, or ``shard_bytes`` below 1.
    """
    shards: list[list[Tensor]] = []
    names: set[str] = set()
    room = 0
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes must be at least 1, not {shard_bytes}")
    for tensor in tensors:
        if tensor.name in names or tensor.dtype not in _NAMES:
            raise ValueError(
                f"tensor {tensor.name!r} ({tensor.dtype}) occurs twice or has a dtype that cannot be stored"
            )
        names.add(tensor.name)
        if not shards or tensor.nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= tensor.nbytes
    if not shards:
        raise ValueError("no tensors to write")
    # Wide dtypes first: every tensor then begins at a multiple of its item size, which readers rely on.
    ordered = [tuple(sorted(shard, key=lambda tensor: -tensor.dtype.itemsize)) for shard in shards]
    if len(ordered) == 1:
        return {SINGLE: ordered[0]}
    return {f"model-{i:05d}-of-{len(ordered):05d}.safetensors": shard for i, shard in enumerate(ordered, 1)}


class ShardWriter:
    """Writes one safetensors file, tensor by tensor; the file has its name only once it is complete.

    ::

        with ShardWriter(folder / name, tensors) as shard:
            for tensor in tensors:
                shard.append(array_of(tensor))

    Args:
      file: where to.
      tensors: what will be appended, in this order.
      metadata: texts for the header; transformers wants ``{"format": "pt"}``.
    """

    def __init__(self, file: Path, tensors: Sequence[Tensor], metadata: Mapping[str, str] | None = None) -> None:
        self._file = file
        self._temporary = file.with_name(f".{file.name}.partial")
        self._waiting = list(reversed(tensors))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"} if metadata is None else dict(metadata)}
        end = 0
        for tensor in tensors:
            place = [end, end + tensor.nbytes]
            header[tensor.name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
            end += tensor.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format wants the data to begin at a multiple of eight
        self._head = len(text).to_bytes(8, "little") + text

    def __enter__(self) -> ShardWriter:
        self._stream = open(self._temporary, "wb", buffering=0)
        self._write(self._head)
        return self

    def append(self, array: np.ndarray) -> None:
        """Writes the next tensor, which may be a transposed view, block by block.

        Raises:
          ValueError: it is not the tensor that was announced.
        """
        if not self._waiting:
            raise ValueError(f"{self._file.name} has all its tensors")
        tensor = self._waiting.pop()
        if array.shape != tensor.shape or array.dtype != tensor.dtype:
            raise ValueError(
                f"{tensor.name} was announced as {tensor.dtype}{tensor.shape}, got {array.dtype}{array.shape}"
            )
        if array.ndim == 0 or array.flags.c_contiguous:
            self._write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            return
        rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
        for start in range(0, array.shape[0], rows):
            block = array[start : start + rows]
            copy = np.empty(block.shape, block.dtype)
            copy_block(copy, block)
            self._write(copy.reshape(-1).view(np.uint8).data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType
    ) -> None:
        try:
            if kind is None and self._waiting:
                raise ValueError(f"{self._file.name} lacks {self._waiting[-1].name} and {len(self._waiting) - 1} more")
            if kind is None:
                os.fsync(self._stream.fileno())
                self._stream.close()
                os.replace(self._temporary, self._file)
        finally:
            self._stream.close()
            self._temporary.unlink(missing_ok=True)

    def _write(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            view = view[self._stream.write(view) :]


def write_index(folder: Path, shards: Mapping[str, Sequence[Tensor]]) -> None:
    """``model.safetensors.index.json`` of several shards; nothing for a single file, which needs none."""
    if SINGLE in shards:
        return
    weight_map = {tensor.name: file for file, tensors in shards.items() for tensor in tensors}
    total = sum(tensor.nbytes for tensors in shards.values() for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
