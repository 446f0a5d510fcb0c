"""What made a result: the commit of the code, the date, the versions of the libraries, the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import jax

import medvista_jax

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "qwix", "numpy", "safetensors", "transformers")
"""Distributions whose versions are recorded, where they are installed."""


def commit(folder: Path | None = None) -> str:
    """``1a2b3c4d5e6f`` of the clone that holds the package, with ``, changed`` behind it where tracked files differ.

    Args:
      folder: top folder of the clone; the folder above the package when left out.

    Returns:
      ``"unknown"`` where that is no clone, or git is not there.
    """
    folder = folder or Path(medvista_jax.__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return "unknown"  # an installed package may lie inside a clone of something else
    try:
        short = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{short}, changed" if changed else short


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Name → version of Python, of this package and of :data:`LIBRARIES`."""
    found = {"python": platform.python_version(), "medvista-jax": medvista_jax.__version__}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def today() -> str:
    """The date, ISO 8601."""
    return datetime.date.today().isoformat()


def machine() -> str:
    """``2 CPU cores``, or how many accelerators of which kind."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return f"{os.cpu_count()} CPU cores"
    return f"{len(devices)} × {devices[0].device_kind}"
