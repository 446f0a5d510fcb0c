"""Reads the tensors of a hub-layout folder: ``model.safetensors``, or shards with ``model.safetensors.index.json``.

The format (huggingface/safetensors): eight bytes with the length of the header, little-endian; the header, JSON with
dtype, shape and place of every tensor; then the tensors' bytes, row-major. Files are read with plain reads of just the
bytes asked for. A memory map would be shorter, but its pages count as the process's memory until it is closed.

Pickled weights (``pytorch_model.bin``, ``*.pt``, ``*.ckpt``) run code when they are opened, so they never are.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from medvista_jax.models.names import Index

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in (
        ("F64", np.float64),
        ("F32", np.float32),
        ("F16", np.float16),
        ("BF16", ml_dtypes.bfloat16),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn),
        ("F8_E5M2", ml_dtypes.float8_e5m2),
        ("I64", np.int64),
        ("I32", np.int32),
        ("I16", np.int16),
        ("I8", np.int8),
        ("U64", np.uint64),
        ("U32", np.uint32),
        ("U16", np.uint16),
        ("U8", np.uint8),
        ("BOOL", np.bool_),
    )
}
"""The format's name of a dtype -> NumPy's."""

_MAX_HEADER = 100_000_000  # the format's own limit
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_STRIP = 64


class BadCheckpoint(ValueError):
    """A folder cannot be used as a hub checkpoint. The message names the file and says how to mend it."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: ``nbytes`` bytes of ``file`` from ``start`` on, row-major."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    file: Path = Path()
    start: int = 0

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFiles:
    """The tensors of a folder. Opening reads headers only; ``with`` closes the files.

    Attributes:
      folder: the folder.
      files: its shards.
      tensors: name -> :class:`Tensor`.
      bytes_read: bytes of tensors read so far.

    Raises:
      BadCheckpoint: no weights, or a file that is missing, cut off or no safetensors file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = check_folder(folder)
        self.bytes_read = 0
        self._open: dict[Path, io.FileIO] = {}
        weight_map = _weight_map(self.folder)
        self.files = tuple(self.folder / name for name in sorted(set(weight_map.values()))) or (self.folder / SINGLE,)
        self.tensors: dict[str, Tensor] = {}
        for file in self.files:
            for name, tensor in read_header(file).items():
                if name in self.tensors:
                    raise BadCheckpoint(
                        f"tensor {name!r} is both in {self.tensors[name].file.name} and {file.name} of {self.folder}: "
                        "the shards come from different checkpoints; get the folder again"
                    )
                self.tensors[name] = tensor
        for name, file_name in weight_map.items():
            if name not in self.tensors or self.tensors[name].file.name != file_name:
                raise BadCheckpoint(
                    f"{self.folder / INDEX} says that {name!r} is in {file_name}, which does not hold it: index and "
                    "shards come from different checkpoints; get the folder again"
                )

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; a later read opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def read(self, name: str, index: Index | None = None, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """A slice of a tensor; no byte beside it is read.

        Args:
          name: the tensor's name on disk.
          index: a slice for every axis, without steps; everything when left out.
          shape: another shape of as many elements to see the tensor in, row-major; ``index`` speaks of it.

        Returns:
          A new array of the dtype on disk.

        Raises:
          BadCheckpoint: the file ends early or cannot be read.
        """
        tensor = self.tensors[name]
        shape = tensor.shape if shape is None else shape
        if math.prod(shape) != math.prod(tensor.shape):
            raise ValueError(f"{name} has shape {tensor.shape}, it cannot be seen as {shape}")
        starts, sizes = _bounds(index, shape)
        part = np.empty(sizes, tensor.dtype)
        if part.size == 0:
            return part
        places, length = _runs(starts, sizes, shape)
        out = memoryview(part.reshape(-1).view(np.uint8))
        item, begin = tensor.dtype.itemsize, 0
        for place in places:
            self._read_into(tensor, out[begin : begin + length * item], tensor.start + place * item)
            begin += length * item
        self.bytes_read += part.nbytes
        return part

    def _read_into(self, tensor: Tensor, out: memoryview, start: int) -> None:
        try:
            file = self._open.get(tensor.file)
            if file is None:
                file = self._open[tensor.file] = open(tensor.file, "rb", buffering=0)
            file.seek(start)
            while out:
                count = file.readinto(out)
                if not count:
                    raise BadCheckpoint(
                        f"{tensor.file} ends inside {tensor.name!r}, though its header was read whole: something "
                        "has changed it since; get the file again"
                    )
                out = out[count:]
        except OSError as error:
            raise BadCheckpoint(f"{tensor.file} cannot be read: {error.strerror or error}") from error


def check_folder(folder: str | Path) -> Path:
    """The path, if it can be a checkpoint's.

    Raises:
      BadCheckpoint: there is no such folder, or no ``config.json`` in it.
    """
    path = Path(folder)
    if path.is_file():
        raise BadCheckpoint(f"{path} is a file; give the folder that holds config.json and the *.safetensors files")
    if not path.is_dir():
        raise BadCheckpoint(
            f"there is no folder {path}; nothing is downloaded here: get a checkpoint with "
            "`hf download NAME --local-dir FOLDER` and give that folder"
        )
    if not (path / "config.json").is_file():
        raise BadCheckpoint(f"{path} has no config.json, so it is no hub-layout model folder{_adapter_hint(path)}")
    return path


def _adapter_hint(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "; it holds an adapter: give the folder of its base model"
    return ""


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor name -> file name as the index says; empty when there is one file and no index."""
    if (folder / SINGLE).is_file():
        return {}
    path = folder / INDEX
    if not path.is_file():
        raise BadCheckpoint(_why_no_weights(folder))
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(f"{path} has no weight_map (tensor name -> file name); get it again")
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise BadCheckpoint(
                f"{path} places {name!r} in {file!r}; only *.safetensors files beside the index are read. "
                "Convert the checkpoint with transformers' save_pretrained"
            )
    missing = sorted({file for file in weight_map.values() if not (folder / file).is_file()})
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BadCheckpoint(f"{folder} lacks {', '.join(missing[:3])}{more}, named by {INDEX}; get the missing files")
    return weight_map


def _why_no_weights(folder: Path) -> str:
    wanted = f"{SINGLE}, or shards with {INDEX}"
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    if shards:
        return f"{folder} holds {shards[0]}, but neither {SINGLE} nor {INDEX}; add the file that is missing"
    if pickles:
        return (
            f"{folder} holds its weights only as {pickles[0]}, a pickle, which is never opened: it can run any code. "
            f"Convert it where you trust it, with transformers' save_pretrained, to {wanted}"
        )
    return f"{folder} holds no weights: {wanted} is wanted"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      BadCheckpoint: it cannot be read, or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise BadCheckpoint(f"{path} is no JSON ({error}); get it again") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} holds no JSON object; get it again")
    return value


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, without their bytes.

    Raises:
      BadCheckpoint: it cannot be read, is cut off or is no safetensors file.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(_MAX_HEADER, size - 8):
                raise BadCheckpoint(_why_no_header(file, size))
            text = stream.read(length)
    except OSError as error:
        raise BadCheckpoint(f"{file} cannot be read: {error.strerror or error}") from error
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = [_tensor(file, name, about, 8 + length) for name, about in header.items()]
    except BadCheckpoint:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadCheckpoint(f"{file} has a damaged header ({error!r}); get the file again") from error
    tensors.sort(key=lambda tensor: (tensor.start, tensor.nbytes))
    end = 8 + length
    for tensor in tensors:
        if tensor.start != end:
            raise BadCheckpoint(
                f"{file} has a damaged header: {tensor.name!r} does not begin where the one before ends"
            )
        end += tensor.nbytes
    if end != size:
        what = "cut off" if size < end else "longer than it should be"
        raise BadCheckpoint(f"{file} is {what}: {size:,} bytes instead of {end:,}; get the file again")
    return {tensor.name: tensor for tensor in tensors}


def _why_no_header(file: Path, size: int) -> str:
    with open(file, "rb") as stream:
        start = stream.read(40)
    if start.startswith(b"version https://git-lfs"):
        return f"{file} is a Git LFS pointer, not the weights; run `git lfs pull` in its folder"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return (
            f"{file} is a pickle with another name; it is never opened. Convert it with transformers' save_pretrained"
        )
    return f"{file} is cut off or no safetensors file: {size:,} bytes, fewer than its header alone; get the file again"


def _tensor(file: Path, name: str, about: dict[str, Any], data: int) -> Tensor:
    if about["dtype"] not in DTYPES:
        raise BadCheckpoint(f"{file}: tensor {name!r} has the unknown dtype {about['dtype']!r}")
    shape = tuple(about["shape"])
    begin, end = about["data_offsets"]
    if not all(isinstance(x, int) and x >= 0 for x in (*shape, begin, end)):
        raise ValueError(f"sizes of {name!r}")
    tensor = Tensor(name, DTYPES[about["dtype"]], shape, file, data + begin)
    if tensor.nbytes != end - begin:
        raise ValueError(f"{name!r} of {about['dtype']}{list(shape)} in {end - begin} bytes")
    return tensor


def _bounds(index: Index | None, shape: tuple[int, ...]) -> tuple[list[int], tuple[int, ...]]:
    """First element and number of elements on every axis."""
    index = (slice(None),) * len(shape) if index is None else index
    if len(index) != len(shape):
        raise ValueError(f"{len(index)} slices for {len(shape)} axes")
    limits = [part.indices(size) for part, size in zip(index, shape, strict=True)]
    if any(step != 1 for _, _, step in limits):
        raise ValueError(f"slices with a step cannot be read: {index}")
    return [start for start, _, _ in limits], tuple(max(0, stop - start) for start, stop, _ in limits)


def _runs(starts: Sequence[int], sizes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[list[int], int]:
    """Where the slice's contiguous runs begin, in elements from the tensor's start and in order, and their length."""
    axis = len(shape)  # the run covers this axis and all behind it
    length = 1
    while axis > 0 and (axis == len(shape) or sizes[axis] == shape[axis]):
        axis -= 1
        length *= sizes[axis]
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    places = np.array([sum(start * stride for start, stride in zip(starts, strides, strict=True))], np.int64)
    for i in range(axis):
        places = (places[:, None] + np.arange(sizes[i], dtype=np.int64)[None, :] * strides[i]).reshape(-1)
    return places.tolist(), length


def copy_block(out: np.ndarray, block: np.ndarray) -> None:
    """``out[...] = block``, five times faster when a large matrix is transposed on the way.

    Args:
      out, block: arrays of one shape; either may be a transposed view.
    """
    if out.ndim == 2 and (out.strides[0] < out.strides[1]) != (block.strides[0] < block.strides[1]):
        if out.strides[0] < out.strides[1]:
            out, block = out.T, block.T
        # Strips so narrow that the lines of the cache they touch are still there for the next row.
        for start in range(0, out.shape[1], _STRIP):
            out[:, start : start + _STRIP] = block[:, start : start + _STRIP]
    else:
        out[...] = block
