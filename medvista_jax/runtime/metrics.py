"""Metrics of a run as JSON lines: one flat object a record, flushed at once, so that a kill loses nothing."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from medvista_jax.runtime.disk import require_writable

RESERVED = ("stage", "step", "wall_seconds")
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsLog:
    """Appends records to ``path``.

    Each line is ``{"stage", "step", "wall_seconds", name: number, …}``. ``wall_seconds`` counts the time that
    the run has taken, and goes on where the file ends when a run is resumed. Not-a-number and infinities are
    written as the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``, since JSON has no such numbers; the
    reader turns them back.

    Args:
      path: the file; its folder is made, a file that is there is continued (see :meth:`rewind`, :func:`truncate`).
      writes: of several processes that train together one writes; the others count along in silence.

    Raises:
      DiskError: the folder cannot be written.
    """

    def __init__(self, path: str | Path, writes: bool = True) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None
        records = []
        if writes:
            require_writable(self.path.parent)
            records = _drop_broken_tail(self.path)
            self._file = self.path.open("a", encoding="utf-8")
        before = records[-1]["wall_seconds"] if records else 0.0
        self._started = time.monotonic() - before
        self._counts = Counter(record["stage"] for record in records)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def position(self, stage: str) -> int:
        """How many records of a stage are in the file, which is forced to the disk first: a checkpoint that remembers
        the number must not outlive the records."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        return self._counts[stage]

    def rewind(self, stage: str, position: int) -> int:
        """Drops the records of a stage behind its first ``position`` ones: what a resumed run writes again.

        Other stages keep theirs. Counting by stage, rather than by bytes of the file, stays right when an earlier
        stage was run again in between.

        Returns:
          How many records of the stage there are now; fewer than ``position`` where the file has lost some.
        """
        if self._file is None:
            self._counts[stage] = position
        elif self._counts[stage] > position:
            seen, kept = 0, []
            for record in read_metrics(self.path):
                seen += record["stage"] == stage
                if record["stage"] != stage or seen <= position:
                    kept.append(record)
            self._file.close()
            _rewrite(self.path, kept)
            self._file = self.path.open("a", encoding="utf-8")
            self._counts[stage] = position
        return self._counts[stage]

    def write(self, stage: str, step: int, values: dict[str, Any]) -> None:
        """Appends one record.

        Args:
          stage: such as ``"sft"``.
          step: number of the step within its stage.
          values: name -> Python, NumPy or JAX scalar, or a string.

        Raises:
          TypeError: a value is no scalar.
          ValueError: a name is one of ``stage``, ``step``, ``wall_seconds``.
        """
        record: dict[str, Any] = {
            "stage": stage,
            "step": int(step),
            "wall_seconds": round(time.monotonic() - self._started, 3),
        }
        for name, value in values.items():
            if name in RESERVED:
                raise ValueError(f"metric {name!r} collides with a field of every record")
            record[name] = _scalar(name, value)
        if self._file is not None:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        self._counts[stage] += 1

    def close(self) -> None:
        """Closes the file; closing twice is fine."""
        if self._file is not None:
            self._file.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All records in the order they were written; a half-written last line is left out.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a line other than the last is no JSON object.
    """
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # what a kill in the middle of a write leaves
                break
            raise ValueError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}:{number}: not a JSON object")
        records.append({k: _NOT_FINITE.get(v, v) if isinstance(v, str) else v for k, v in record.items()})
    return records


def truncate(path: str | Path, step: int, stage: str | None = None) -> int:
    """Drops what a resumed run will write again.

    Args:
      path: a metrics file; nothing happens when it is absent.
      step: the last step that stays.
      stage: the stage that ``step`` counts in. Records of that stage past ``step`` go, and so do all records
        of stages that first appear after it; earlier stages stay whole. Without a stage, every record past
        ``step`` goes.

    Returns:
      How many records were dropped.
    """
    path = Path(path)
    if not path.exists():
        return 0
    records = read_metrics(path)
    order = list(dict.fromkeys(record["stage"] for record in records))
    if stage is None:
        kept = [record for record in records if record["step"] <= step]
    else:
        place = order.index(stage) if stage in order else len(order)
        kept = [
            record
            for record in records
            if order.index(record["stage"]) < place or (record["stage"] == stage and record["step"] <= step)
        ]
    _rewrite(path, kept)
    return len(records) - len(kept)


def _scalar(name: str, value: Any) -> float | int | bool | str:
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.ndim != 0 or array.dtype.kind not in "biufV":
        raise TypeError(f"metric {name!r} must be a scalar, not {array.dtype}{list(array.shape)}")
    if array.dtype.kind in "biu":
        return array.item()
    number = float(array)  # bfloat16 comes as kind V
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _drop_broken_tail(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    records = read_metrics(path)
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        _rewrite(path, records)
    return records


def _rewrite(path: Path, records: list[dict[str, Any]]) -> None:
    """Replaces the file in one step, so that a kill leaves the old or the new one."""
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8") as file:
        for record in records:
            line = {k: _scalar(k, v) if isinstance(v, float) else v for k, v in record.items()}
            file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
