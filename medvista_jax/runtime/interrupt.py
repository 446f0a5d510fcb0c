"""Ctrl-C and pre-emption as a question between steps instead of an exception in the middle of one."""

from __future__ import annotations

import _thread
import os
import signal
import socket
import sys
import threading
from types import FrameType

GRACE_SECONDS = 3.0
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit status of a run that was asked to stop and saved first: 128 + the signal's number, as a shell counts. By it a
scheduler tells a pre-emption (143: start again with ``--resume``) from a person's Ctrl-C (130)."""


class Interrupted(Exception):
    """Asked to stop between two pieces of work, and all that was done is saved.

    ``args[0]`` says where; :attr:`exit_code` is the status that the program ends with, of :data:`EXIT_CODES`.
    """

    def __init__(self, where: str, exit_code: int = EXIT_CODES[signal.SIGINT]) -> None:
        super().__init__(where)
        self.exit_code = exit_code


class Interrupts:
    """While inside, the first SIGINT or SIGTERM sets :attr:`requested`; the second one aborts at once.

    ::

        with Interrupts() as interrupts:
            for step in range(steps):
                ...
                if interrupts.requested:
                    checkpoints.save(...)
                    raise interrupts.stopped(f"stopped after step {step}")

    Abort means ``KeyboardInterrupt``. Python runs signal handlers only between its own instructions, and a
    compilation can last a minute: so a thread reads the signals from a socket, answers the first one on
    standard error immediately, and ends the process (with the exit status of the first one) when a second one was not
    honoured within three seconds.

    Outside the main thread signals cannot be caught; the flag then simply stays ``False``.
    """

    def __init__(self) -> None:
        self.requested = False
        self._first: int = signal.SIGINT
        self._handled = 0
        self._noticed = 0
        self._raised = threading.Event()
        self._active = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._old_descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, self._handle) for number in EXIT_CODES}
        self._active = True
        threading.Thread(target=self._watch, name="interrupts", daemon=True).start()
        return self

    @property
    def exit_code(self) -> int:
        """Status to end with, by the signal that came first; 0 as long as none came."""
        return EXIT_CODES[signal.Signals(self._first)] if self.requested else 0

    def stopped(self, where: str) -> Interrupted:
        """The exception to raise once everything is saved."""
        return Interrupted(where, self.exit_code)

    def __exit__(self, *error: object) -> None:
        if not self._active:
            return
        self._active = False
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._writer.close()  # ends the thread

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._request(number)
        self._handled += 1
        # Signals that arrive during one native call reach this handler as one; the thread has counted them.
        if max(self._handled, self._noticed) >= 2:
            self._raised.set()
            raise KeyboardInterrupt

    def _watch(self) -> None:
        with self._reader:
            while data := self._reader.recv(64):
                for number in data:
                    if number in EXIT_CODES:
                        self._notice(number)

    def _request(self, number: int) -> None:
        # The handler and the thread both learn of a signal, in either order; the first one of all counts.
        if not self.requested:
            self._first = number
            self.requested = True

    def _notice(self, number: int) -> None:
        self._noticed += 1
        self._request(number)
        if self._noticed == 1:
            name = "" if number == signal.SIGINT else f"{signal.Signals(number).name}: "
            line = f"\n{name}Stopping after this step. Once more (Ctrl-C) aborts at once."
            print(line, file=sys.stderr, flush=True)
        elif self._noticed == 2:
            if not self._raised.wait(0.2):
                _thread.interrupt_main()
            if not self._raised.wait(GRACE_SECONDS) and self._active:
                os._exit(self.exit_code)
