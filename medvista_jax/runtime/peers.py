"""Processes of one run that watch one another, so that the death of one ends the others with a line that says so.

What JAX does by itself (0.10): a collective on a CPU raises as soon as a peer's connection breaks, on an accelerator it
waits; silence of a process is noticed by the coordination service in process 0 after its heartbeat time-out, which then
makes the C++ client of every other process call ``abort()``; so does, at once, the death of process 0. No Python code
runs then, and the exit status is that of any crash. Hence two parts:

* :class:`Watch`: every process writes a beat to the coordination service's key-value store and reads the others'. Who
  falls silent is named, and so is who ends with an error: the reason travels with its last beat.
* :class:`AbortHook`: a handler of SIGABRT, which ``abort()`` runs on its own thread before anything else, turns the C++
  client's end into the same line and exit status.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

EXIT_PEER_LOST = 76
"""Exit status of a process that stops because another one is gone, or never came. Starting all of them again helps."""

_BEATS = "medvista/beat"
_GRACE_TICKS = 3
"""Ticks that a process has to notice by itself what ended another one (the same NaN, the same signal)."""
_SUSPICIOUS_TICKS = 4
"""Ticks of silence that are enough once a collective has failed or the C++ client has given up."""
_TICKS_TO_FIND_OUT = _SUSPICIOUS_TICKS + _GRACE_TICKS + 2
"""Ticks after which nobody else is to blame."""


@dataclasses.dataclass
class Peer:
    """What a process last said.

    Attributes:
      said: its record: ``host``, ``pid``, ``beat`` and, once it ends with an error, ``end``.
      quiet: how many of our own ticks its record has not changed for. Ticks and not seconds: a process that was itself
        stopped for a while must not accuse the others.
      ended: how many of our own ticks it has been ending for.
    """

    said: dict[str, Any]
    quiet: int = 0
    ended: int = 0


class Watch:
    """Threads that beat, read the beats of the others and end this process when one of them is gone.

    Args:
      client: JAX's client of the coordination service.
      hook: explains aborts from :meth:`start` on.
      process, processes: own number, and how many there are.
      coordinator: ``host:port`` of the service.
      silence_seconds: a peer that says nothing for so long is lost. Python code that holds the interpreter lock for
        longer would be taken for dead.
      advice: last sentence of the message: how to go on.
    """

    def __init__(
        self,
        client: Any,
        hook: AbortHook,
        process: int,
        processes: int,
        coordinator: str,
        silence_seconds: float,
        advice: str,
    ) -> None:
        self.process, self.processes, self.coordinator = process, processes, coordinator
        self.silence_seconds, self.advice = silence_seconds, advice
        self.tick = min(1.0, silence_seconds / 8)
        self._client, self._hook = client, hook
        self._beat = 0
        self._suspicious = False
        self._ending: int | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()  # one writer of our record: the last one must be the reason
        self._peers: dict[int, Peer] = {}

    def introduce(self, seconds: float, record: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Says who this is, and yields number and record of the others, waiting for each.

        Raises:
          TimeoutError: one did not come within ``seconds``.
        """
        self._record = {"host": socket.gethostname(), "pid": os.getpid(), **record}
        self._say()
        deadline = time.monotonic() + seconds
        for other in (number for number in range(self.processes) if number != self.process):
            left = max(1, int(1000 * (deadline - time.monotonic())))
            try:
                said = self._client.blocking_key_value_get(f"{_BEATS}/{other}", left)
            except jax.errors.JaxRuntimeError as error:
                raise TimeoutError(f"process {other} of {self.processes} did not come") from error
            self._peers[other] = Peer(json.loads(said))
            yield other, self._peers[other].said

    def start(self) -> None:
        """Starts beating and watching."""
        self._hook.explain = self._explain_abort
        for target, name in ((self._beats, "hosts-beat"), (self._judges, "hosts-watch")):
            threading.Thread(target=target, name=name, daemon=True).start()

    def stop(self) -> None:
        """Peers may go from now on."""
        self._stopped.set()

    def suspect(self) -> None:
        """A collective has failed: waits until it is clear who is gone, and ends the process then.

        Returns:
          Nothing, after a few ticks, if all others are alive: the failure is our own.
        """
        self._suspicious = True
        time.sleep(_TICKS_TO_FIND_OUT * self.tick)

    def end(self, reason: str, status: int) -> None:
        """Tells the others why this process ends, and stays until they have read it: the service may be in here."""
        self._ending = status
        self._record["end"] = reason
        self._say()
        time.sleep((_GRACE_TICKS + 3) * self.tick)

    def _explain_abort(self) -> tuple[str, int] | None:
        """Message and status, or ``None`` if the abort has nothing to do with the others."""
        if self._ending is not None:
            return "", self._ending
        if self._stopped.is_set():
            return None
        # A broken connection may abort this process before the service of a dying peer has stopped to answer, and
        # before the peer has been silent for long: the judge goes on meanwhile, and ends the process if it finds one.
        self._suspicious = True
        for _ in range(_TICKS_TO_FIND_OUT):
            message = self._message()
            if message is None and not _reachable(self.coordinator):
                message = self._gone(0, "its coordination service does not answer any more")
            if message is not None:
                return message, EXIT_PEER_LOST
            time.sleep(self.tick)
        return None

    def _say(self) -> None:
        with self._lock:
            self._record["beat"] = self._beat
            self._beat += 1
            try:
                self._client.key_value_set(f"{_BEATS}/{self.process}", json.dumps(self._record), allow_overwrite=True)
            except jax.errors.JaxRuntimeError:
                pass  # the service is in process 0, whose silence is noticed

    def _beats(self) -> None:
        """Talks to the coordination service; blocks when that hangs, so nothing is decided here."""
        while not self._stopped.wait(self.tick):
            if self._ending is None:
                self._say()
            try:
                said = self._client.key_value_dir_get(_BEATS)
            except jax.errors.JaxRuntimeError:
                continue
            for key, value in said:
                number, record = int(key.rsplit("/", 1)[1]), json.loads(value)
                if number != self.process and record != self._peers[number].said:
                    self._peers[number] = Peer(record)

    def _judges(self) -> None:
        while not self._stopped.wait(self.tick):
            self._hook.install()  # an accelerator's runtime brings a handler of its own when it starts
            for peer in self._peers.values():
                peer.quiet += 1
                peer.ended += "end" in peer.said
            message = self._message()
            if message is not None and self._ending is None and not self._stopped.is_set():
                if self.process == 0:  # the others hear through the service in here, and must find out as well
                    time.sleep(_GRACE_TICKS * self.tick)
                leave(message, EXIT_PEER_LOST)

    def _message(self) -> str | None:
        """Who is gone, ``None`` if nobody is."""
        ticks = _SUSPICIOUS_TICKS if self._suspicious else round(self.silence_seconds / self.tick)
        # In order: without process 0 nothing is heard of anybody, and it is the first to be found silent.
        for number, peer in self._peers.items():
            if "end" in peer.said:
                if self._suspicious or peer.ended > _GRACE_TICKS:
                    return self._gone(number, f"it stopped: {peer.said['end']}")
            elif peer.quiet >= ticks:
                return self._gone(number, f"it has been silent for {peer.quiet * self.tick:.0f} s")
        return None

    def _gone(self, number: int, how: str) -> str:
        said = self._peers[number].said
        return (
            f"Process {number} of {self.processes} (pid {said['pid']} on {said['host']}) is gone: {how}. "
            f"So process {self.process} stops, with exit status {EXIT_PEER_LOST}.\n{self.advice}"
        )


class AbortHook:
    """Runs ``explain`` when C++ code of this process calls ``abort()``.

    ``explain`` returns the message and the exit status to leave with; ``None`` lets the abort happen. It runs on the
    thread that aborts, outside any signal context that would forbid it: the signal is raised by that thread itself.
    """

    def __init__(self, explain: Callable[[], tuple[str, int] | None]) -> None:
        self.explain = explain
        library = ctypes.CDLL(None)
        library.signal.argtypes, library.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
        self._signal = library.signal
        # Python's own handlers run between bytecodes of the main thread: too late, abort() does not return.
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)  # must outlive the registration
        self._address = ctypes.cast(self._callback, ctypes.c_void_p).value
        self._before: int | None = None  # NULL is SIG_DFL
        self.install()

    def install(self) -> None:
        """Puts the handler in place, again where another library has replaced it."""
        before = self._signal(signal.SIGABRT, self._address)
        if before != self._address:
            self._before = before

    def remove(self) -> None:
        """Aborts are again what they were."""
        self._signal(signal.SIGABRT, self._before)

    def _aborted(self, number: int) -> None:
        found = self.explain()
        if found is not None:
            leave(*found)
        self.remove()
        signal.raise_signal(signal.SIGABRT)


def leave(message: str, status: int) -> None:
    """Ends the process at once: clean-up at exit would wait for peers that do not come."""
    if message:
        os.write(2, f"\nmedvista: {message}\n".encode())
    # Another thread may hold the lock of a stream that nobody reads.
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    flush.start()
    flush.join(1.0)
    os._exit(status)


def _reachable(address: str, seconds: float = 1.0) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), seconds):
            return True
    except OSError:
        return False
