"""Calls that arrive within a few milliseconds become one batch: a device runs thirty-two as fast as one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from medvista_jax.tools.call import ToolCall, ToolResult

T = TypeVar("T")


class Overloaded(Exception):
    """More calls wait than may."""


class Batcher:
    """Belongs to one event loop; ``apply`` runs in threads, at most ``parallel`` at a time.

    While every thread is busy the calls that arrive gather, so batches grow with the load.

    Args:
      apply: a result for each call.
      most: calls of a batch.
      gather_s: how long the first call of a batch waits for others.
      parallel: batches at a time.
      limit: calls that may wait or run.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[ToolCall]], Sequence[ToolResult]],
        most: int,
        gather_s: float,
        parallel: int,
        limit: int,
    ):
        self._apply, self._most, self._gather_s, self._limit = apply, most, gather_s, limit
        self._slots = asyncio.Semaphore(parallel)
        self._pending: list[tuple[ToolCall, asyncio.Future[ToolResult]]] = []
        self._gatherer: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open, self.running = 0, 0
        self.on_batch: Callable[[int], None] = lambda size: None

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""
        return max(self._open - self.running, 0)

    async def one(self, call: ToolCall) -> ToolResult:
        """The result of a call that runs together with others.

        Raises:
          Overloaded: when too many calls wait already.
          Exception: what ``apply`` raised.
        """
        with self._admitted(1):
            future = asyncio.get_running_loop().create_future()
            self._pending.append((call, future))
            if self._gatherer is None:
                self._start_gatherer(self._gather_s)
            return await future

    async def batch(self, calls: Sequence[ToolCall]) -> Sequence[ToolResult]:
        """The results of calls that run as one batch, and nothing else in it. Raises as :meth:`one` does."""
        with self._admitted(len(calls)):
            async with self._slots:
                return await self._run(calls)

    @contextlib.contextmanager
    def _admitted(self, count: int) -> Iterator[None]:
        if self._open + count > self._limit:
            raise Overloaded(f"{self._open} calls wait or run already and {self._limit} may; try again soon")
        self._open += count
        try:
            yield
        finally:
            self._open -= count

    def _start_gatherer(self, after_s: float) -> None:
        self._gatherer = asyncio.create_task(self._gather(after_s))
        self._tasks.add(self._gatherer)  # the event loop does not keep its tasks alive
        self._gatherer.add_done_callback(self._tasks.discard)

    async def _gather(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        async with self._slots:
            alive = [(call, future) for call, future in self._pending if not future.done()]  # some have hung up
            taken, self._pending = alive[: self._most], alive[self._most :]
            self._gatherer = None
            if self._pending:
                self._start_gatherer(0.0)
            try:
                outcomes: Sequence[ToolResult | Exception] = await self._run([call for call, _ in taken])
            except Exception as error:
                outcomes = [error] * len(taken)
        for (_, future), outcome in zip(taken, outcomes, strict=True):
            _settle(future, outcome)

    async def _run(self, calls: Sequence[ToolCall]) -> Sequence[ToolResult]:
        if not calls:
            return []
        self.running += len(calls)
        self.on_batch(len(calls))
        try:
            results = await in_thread(lambda: self._apply(calls))
        finally:
            self.running -= len(calls)
        if len(results) != len(calls):
            raise RuntimeError(f"apply returned {len(results)} results for {len(calls)} calls")
        return results


async def in_thread(function: Callable[[], T]) -> T:
    """What the function returns or raises. Its thread does not keep the process alive, as an executor's would."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        try:
            outcome: T | Exception = function()
        except Exception as error:
            outcome = error
        except BaseException as error:  # a future takes no sys.exit()
            outcome = RuntimeError(repr(error))
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, future, outcome)

    threading.Thread(target=work, name="tool server", daemon=True).start()
    return await future


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # cancelled: the client has hung up
        return
    if isinstance(outcome, StopIteration):  # which a future takes for its own end
        outcome = RuntimeError(repr(outcome))
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
