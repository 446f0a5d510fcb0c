"""A folder that appears complete or not at all, beside :mod:`medvista_jax.runtime.disk`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from medvista_jax.runtime.disk import DiskError, is_full, require_free, require_writable


@contextlib.contextmanager
def new_folder(folder: str | Path, nbytes: int, overwrite: bool = False, mark: str = "config.json") -> Iterator[Path]:
    """Yields a folder beside ``folder`` to write into; it gets the name once the block ends without an error.

    What is replaced stays in place until then. Links are followed.

    Args:
      folder: must not exist, or be empty, or hold ``mark`` with ``overwrite`` set.
      nbytes: that will be written, at least.
      overwrite: replaces what is there.
      mark: a file that a folder must hold to be replaced, so that a mistyped path costs nothing.

    Raises:
      FileExistsError: there is something that is not replaced.
      DiskError: the place cannot be written, is too small or became full.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder to write")
    filled = folder.is_dir() and any(folder.iterdir())
    if filled and not overwrite:
        raise FileExistsError(f"{folder} is not empty; name another folder, or replace this one with --overwrite")
    if filled and not (folder / mark).is_file():
        raise FileExistsError(f"{folder} holds no {mark}, so it is no model and is not replaced; name another folder")
    require_writable(folder.parent)
    require_free(folder.parent, nbytes)
    place, aside = (folder.parent / f".{folder.name}.{what}-{os.getpid()}" for what in ("partial", "replaced"))
    place.mkdir()
    try:
        yield place
        if filled:
            os.replace(folder, aside)
        try:
            os.replace(place, folder)
        except OSError:
            if filled:
                os.replace(aside, folder)
            raise
    except OSError as error:
        if not is_full(error) or isinstance(error, DiskError):
            raise
        raise DiskError(f"the disk is full: {folder} was not written. Free some space and start again.") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
