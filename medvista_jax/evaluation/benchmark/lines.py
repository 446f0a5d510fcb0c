"""A run's files: one JSON line a question, appended whole; what the run was set to; results."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medvista_jax.data.trajectories.files import cut_torn_line


class BadRun(Exception):
    """What was asked for cannot be done. One line: what, where, how to mend it."""


def lines_path(folder: Path, name: str) -> Path:
    """The lines of a set."""
    return folder / f"{name}.jsonl"


def settings_path(folder: Path, name: str) -> Path:
    """What the lines of a set were made with."""
    return folder / f"{name}.settings.json"


def result_path(folder: Path, name: str) -> Path:
    """The numbers of a set."""
    return folder / f"{name}.result.json"


def read_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Lines by id, in order. A last line that was cut off is left out.

    Raises:
      BadRun: the file cannot be read, or a whole line is no JSON object with an id.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadRun(f"{path}: cannot be read ({error.strerror or error})") from None
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(raw[: raw.rfind(b"\n") + 1].splitlines(), 1):
        try:
            entry = json.loads(line)
            found[entry["id"]] = entry
        except (ValueError, KeyError, TypeError):
            raise BadRun(
                f"{path}, line {number}: is no answer of a run; remove the line, its question is asked again"
            ) from None
    return found


class Appender:
    """Appends lines to a file; every one is there whole or is cut off by the next :func:`Appender`.

    Args:
      path: made with its folder.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            cut_torn_line(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """All of them, on the disk when this returns."""
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode()
        while text:
            text = text[os.write(self._file, text) :]
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


@contextlib.contextmanager
def appending(path: Path) -> Iterator[Appender]:
    """An :class:`Appender` that is closed behind the block."""
    out = Appender(path)
    try:
        yield out
    finally:
        out.close()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """The whole file or the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def read_json(path: Path) -> dict[str, Any]:
    """A file of :func:`write_json`.

    Raises:
      BadRun: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRun(f"{path}: cannot be read ({error.strerror or error}); has this run ended?") from None
    except ValueError as error:
        raise BadRun(f"{path}: is no JSON ({error}); run the set again with --resume") from None
    if not isinstance(content, dict):
        raise BadRun(f"{path}: holds no object; run the set again with --resume")
    return content
