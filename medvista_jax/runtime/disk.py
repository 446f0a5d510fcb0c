"""Trouble with the disk as one clear message, before training begins where it can be known."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


class DiskError(OSError):
    """A folder cannot be written, or has not enough room; the message says how to mend it."""


def require_writable(folder: str | Path) -> None:
    """Makes the folder and writes a small file in it, which is removed again.

    Raises:
      DiskError: that does not work.
    """
    if is_remote(folder):
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as file:
            file.write(b"x")
    except OSError as error:
        raise DiskError(
            f"cannot write in {folder}: {error.strerror or error}. Choose another output folder, or mend its "
            "permissions or disk."
        ) from error


def require_room(folder: str | Path, checkpoint_bytes: int, checkpoints: int) -> None:
    """Compares what checkpoints will take with the space that is free.

    Args:
      folder: of the checkpoints. What complete ones in it take counts as free: new ones take their place.
      checkpoint_bytes: size of one, uncompressed.
      checkpoints: how many lie there at once at most, the one being written included.

    Raises:
      DiskError: they will not fit.
    """
    if is_remote(folder):
        return
    free = shutil.disk_usage(folder).free
    complete = [entry for entry in Path(folder).iterdir() if entry.name.isdigit()]
    taken = sum(path.stat().st_size for entry in complete for path in entry.rglob("*") if path.is_file())
    needed = checkpoint_bytes * checkpoints
    if needed > free + taken:
        raise DiskError(
            f"not enough room for checkpoints in {folder}: {checkpoints} of {size_text(checkpoint_bytes)} need "
            f"{size_text(needed)}, {size_text(free)} are free. Free {size_text(needed - free - taken)}, choose an "
            "output folder on another disk, or keep fewer checkpoints."
        )


def require_free(folder: str | Path, nbytes: int) -> None:
    """Compares what will be written with the space that is free.

    Raises:
      DiskError: it will not fit.
    """
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise DiskError(
            f"not enough room in {folder}: {size_text(nbytes)} are needed, {size_text(free)} are free. Free "
            f"{size_text(nbytes - free)}, or name a folder on another disk."
        )


def is_remote(folder: str | Path) -> bool:
    """Whether a folder is a URL such as ``gs://bucket/run``, where space and permissions are not ours to see."""
    return "://" in str(folder)


def is_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that a disk or quota is exhausted. TensorStore says it in words."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "errno", None) in FULL or any(text in str(error) for text in _FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def size_text(count: float) -> str:
    """``1.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
