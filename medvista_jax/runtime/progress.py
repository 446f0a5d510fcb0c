"""Progress with the time left: live bars on a terminal, an occasional plain line everywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

LINE_SECONDS = 5.0


class Stage:
    """One titled stretch of work. Made by :meth:`Progress.stage`."""

    def __init__(self, progress: Progress, title: str, total: int, done: int) -> None:
        self.title = title
        self.total = total
        self.done = done
        self.values: dict[str, Any] = {}
        self._progress = progress
        self._start = progress.clock()
        self._mark: tuple[float, int] | None = None

    def advance(self, steps: int = 1, **values: Any) -> None:
        """Counts ``steps`` more as done; ``values`` (numbers or texts) are shown behind the bar.

        A value is read only when something is drawn, at most a few times a second, so that passing a device
        array does not make the host wait for the device at every step.
        """
        self.done += steps
        self.values.update(values)
        if self._mark is None:
            # The first step carries the compilation; the estimate starts behind it.
            self._mark = (self._progress.clock(), self.done)
        self._progress._draw(self)

    def seconds_left(self) -> float | None:
        """Estimate from the mean pace since the first advance; ``None`` before the second one."""
        if self._mark is None or self.done <= self._mark[1]:
            return None
        pace = (self._progress.clock() - self._mark[0]) / (self.done - self._mark[1])
        return max(0, self.total - self.done) * pace

    def seconds(self) -> float:
        """Time since the stage began."""
        return self._progress.clock() - self._start

    def summary(self) -> str:
        """``12/300, 0:04 gone, 1:30 left, loss 0.321``."""
        left = self.seconds_left()
        parts = [f"{self.done}/{self.total}", f"{duration(self.seconds())} gone"]
        if left is not None and self.done < self.total:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts + [f"{name} {_number(value)}" for name, value in self.values.items()])


class Progress:
    """The progress of a run. Stages nest; the title of an inner one is shown behind its outer ones.

    ::

        with Progress() as progress, progress.stage("seed 0", total=3) as outer:
            with progress.stage("SFT", total=300) as stage:
                for step in range(300):
                    ...
                    stage.advance(loss=loss)
            outer.advance()

    Args:
      stream: where to draw; standard error when left out.
      live: bars (``True``) or lines (``False``); when left out, bars on a terminal.
      line_seconds: least time between two plain lines of a stage.
      clock: seconds, for tests.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        live: bool | None = None,
        line_seconds: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() if live is None else live
        self._line_seconds = line_seconds
        self.clock = clock
        self._stack: list[Stage] = []
        self._tasks: dict[int, Any] = {}
        self._drawn: dict[int, float] = {}
        self._bars: RichProgress | None = None

    def __enter__(self) -> Progress:
        if self._live:
            self._bars = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[summary]}", markup=False),
                console=Console(file=self._stream, force_terminal=True),
                refresh_per_second=4,
            )
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()  # gives the cursor back, on Ctrl-C too
            self._bars = None

    @contextlib.contextmanager
    def stage(self, title: str, total: int, done: int = 0) -> Iterator[Stage]:
        """A stage of ``total`` steps, ``done`` of which were there already (a resumed run)."""
        outer = [stage.title for stage in self._stack]
        stage = Stage(self, title, total, done)
        label = " › ".join([*outer, title])
        self._stack.append(stage)
        key = id(stage)
        if self._bars is not None:
            self._tasks[key] = self._bars.add_task(escape(label), total=total, completed=done, summary=stage.summary())
        else:
            self._say(f"[{label}] starts, {total - done} steps")
        self._drawn[key] = self.clock()
        try:
            yield stage
        except BaseException:
            self._finish(stage, label, "stopped")
            raise
        else:
            self._finish(stage, label, "done" if stage.done >= total else "stopped")
        finally:
            self._stack.remove(stage)

    def note(self, text: str) -> None:
        """Prints a line without tearing the bars."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            self._say(text)

    def _draw(self, stage: Stage) -> None:
        key, now = id(stage), self.clock()
        wait = 0.25 if self._bars is not None else self._line_seconds
        if now - self._drawn[key] < wait:
            return
        self._drawn[key] = now
        if self._bars is not None:
            self._bars.update(self._tasks[key], completed=stage.done, summary=stage.summary())
        elif stage.done < stage.total:  # the last step is said by _finish
            self._say(f"[{self._label(stage)}] {stage.summary()}")

    def _finish(self, stage: Stage, label: str, word: str) -> None:
        key = id(stage)
        self._drawn.pop(key, None)
        if self._bars is None:
            self._say(f"[{label}] {word}: {stage.summary()}")
            return
        task = self._tasks.pop(key)
        self._bars.update(task, completed=stage.done, summary=stage.summary())
        if len(self._stack) > 1:
            # An inner bar would pile up once a repetition: it becomes a line above the bars.
            self._bars.remove_task(task)
            self.note(f"[{label}] {word}: {stage.summary()}")

    def _label(self, stage: Stage) -> str:
        return " › ".join(outer.title for outer in self._stack[: self._stack.index(stage) + 1])

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number(value: Any) -> str:
    if isinstance(value, str | bool | int):
        return str(value)
    return f"{float(value):.3g}"
