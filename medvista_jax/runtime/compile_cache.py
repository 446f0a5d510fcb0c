"""JAX's persistent compilation cache: the second run of a program starts without compiling it again."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

VARIABLE = "MEDVISTA_COMPILE_CACHE"
MINIMUM_SECONDS = 1.0


def cache_folder() -> Path:
    """Where the package keeps what it can make again: ``MEDVISTA_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("MEDVISTA_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medvista_jax"


def compile_cache_folder() -> Path | str | None:
    """Where compiled programs are kept, ``None`` when ``MEDVISTA_COMPILE_CACHE=off``; a URL (``gs://…``) as a string.

    The first of: ``MEDVISTA_COMPILE_CACHE``, ``JAX_COMPILATION_CACHE_DIR``, ``compiled`` in
    :func:`cache_folder`. In the last case the folder is one of this machine's instruction set: XLA compiles
    for the CPU that it finds, and a home folder may be shared by machines that differ.
    """
    chosen = os.environ.get(VARIABLE) or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen is not None and chosen.lower() == "off":
        return None
    if chosen and "://" in chosen:
        return chosen
    if chosen:
        return Path(chosen).expanduser()
    return cache_folder() / "compiled" / _instruction_set()


def enable_compile_cache() -> Path | str | None:
    """Keeps every program that took longer than a second to compile. Call it before the first compilation.

    Returns:
      The folder, or ``None`` when the cache is off or its folder cannot be made (a read-only home is no
      error).
    """
    import jax

    folder = compile_cache_folder()
    if folder is None:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    try:
        if isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MINIMUM_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def _instruction_set() -> str:
    flags = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"
