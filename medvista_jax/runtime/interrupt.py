"""Ctrl-C as a question between steps instead of an exception in the middle of one."""

from __future__ import annotations

import _thread
import os
import signal
import socket
import sys
import threading
from types import FrameType

GRACE_SECONDS = 3.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While inside, the first SIGINT or SIGTERM sets :attr:`requested`; the second one aborts at once.

    ::

        with Interrupts() as interrupts:
            for step in range(steps):
                ...
                if interrupts.requested:
                    checkpoints.save(...)
                    break

    Abort means ``KeyboardInterrupt``. Python runs signal handlers only between its own instructions, and a
    compilation can last a minute: so a thread reads the signals from a socket, answers the first one on
    standard error immediately, and ends the process (exit status 130) when a second one was not honoured
    within three seconds.

    Outside the main thread signals cannot be caught; the flag then simply stays ``False``.
    """

    def __init__(self) -> None:
        self.requested = False
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
        self._old_handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._active = True
        threading.Thread(target=self._watch, name="interrupts", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self._active:
            return
        self._active = False
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._writer.close()  # ends the thread

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._handled += 1
        # Signals that arrive during one native call reach this handler as one; the thread has counted them.
        if max(self._handled, self._noticed) >= 2:
            self._raised.set()
            raise KeyboardInterrupt

    def _watch(self) -> None:
        with self._reader:
            while data := self._reader.recv(64):
                for number in data:
                    if number in SIGNALS:
                        self._notice()

    def _notice(self) -> None:
        self._noticed += 1
        self.requested = True
        if self._noticed == 1:
            print("\nStopping after this step. Once more (Ctrl-C) aborts at once.", file=sys.stderr, flush=True)
        elif self._noticed == 2:
            if not self._raised.wait(0.2):
                _thread.interrupt_main()
            if not self._raised.wait(GRACE_SECONDS) and self._active:
                os._exit(130)
