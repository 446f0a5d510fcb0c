"""Starting several processes of one run on this machine, and ending them whatever happens."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[3]
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def die_with_parent() -> None:
    """Called by a worker: it is killed when the tests are."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Processes:
    """``python -m MODULE ARGUMENTS`` once for every process of a run; killed on leaving the context.

    Args:
      folder: gets the output of each process, ``0.txt`` and so on.
      devices: emulated CPU devices of each.
      variables: environment of process ``number``, beside the usual; ``None`` removes one.
    """

    def __init__(
        self,
        folder: Path,
        module: str,
        *arguments: object,
        count: int,
        devices: int = 1,
        variables: Mapping[int, Mapping[str, str | None]] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        coordinator = f"127.0.0.1:{free_port()}"
        self.outputs = [folder / f"{number}.txt" for number in range(count)]
        self.processes: list[subprocess.Popen] = []
        for number, output in enumerate(self.outputs):
            environment: dict[str, str | None] = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            }
            if count > 1:
                environment |= {
                    "MEDVISTA_COORDINATOR": coordinator,
                    "MEDVISTA_PROCESSES": str(count),
                    "MEDVISTA_PROCESS": str(number),
                }
            environment |= (variables or {}).get(number, {})
            with output.open("w") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", module, *map(str, arguments)],
                    cwd=ROOT,
                    env={name: value for name, value in environment.items() if value is not None},
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            self.processes.append(process)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_for(self, text: str, seconds: float = 60.0, first: bool = False) -> None:
        """Until every process, or only the first, has said ``text``."""
        deadline = time.monotonic() + seconds
        while not all(text in output.read_text() for output in self.outputs[: 1 if first else None]):
            assert time.monotonic() < deadline, f"not everybody said {text!r}:\n{self.said()}"
            assert any(process.poll() is None for process in self.processes), self.said()
            time.sleep(0.05)

    def send(self, number: int, kind: signal.Signals) -> None:
        self.processes[number].send_signal(kind)

    def ends(self, number: int, seconds: float = 90.0) -> tuple[int, str]:
        """Exit status (negative: the signal) and output of a process that must end within ``seconds``."""
        try:
            status = self.processes[number].wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {number} still runs after {seconds:g} s:\n{self.said()}") from None
        return status, self.outputs[number].read_text()

    def all_end(self, status: int = 0, seconds: float = 90.0) -> list[str]:
        """The outputs, after all have ended with ``status``."""
        ended = [self.ends(number, seconds) for number in range(len(self.processes))]
        assert all(found == status for found, _ in ended), self.said()
        return [output for _, output in ended]

    def said(self) -> str:
        return "\n".join(
            f"--- process {number} (status {process.poll()})\n{output.read_text()[-3000:]}"
            for number, (process, output) in enumerate(zip(self.processes, self.outputs, strict=True))
        )
