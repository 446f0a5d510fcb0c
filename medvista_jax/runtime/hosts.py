"""Several processes as one run: start them, give each its rows of the batch, and end them together.

    def main() -> int:
        mesh = make_mesh(sizes)
        for step in range(steps):
            state, metrics = train_step(state, host_batch(load, step, rows, mesh))
            if is_first():
                print(step, float(metrics["loss"]))
        return 0

    if __name__ == "__main__":
        run_on_hosts(main)

Every process runs the same program: same steps, same order of collectives (training steps, checkpoints). Scalar metrics
of a jitted step are replicated, ``float(metrics["loss"])`` works on every host; ``runtime.vote`` lets one of them stop
all. Nothing here starts processes; ``gcloud … --worker=all``, GKE's JobSet, SLURM or a shell do (see
``experiments/README.md``).
"""

from __future__ import annotations

import dataclasses
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed, xla_bridge  # the client has no public name; Orbax takes it from here, too
from jax._src.clusters import ClusterEnv
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medvista_jax.runtime.mesh import describe
from medvista_jax.runtime.peers import EXIT_PEER_LOST, AbortHook, Watch

COORDINATOR, PROCESSES, PROCESS = "MEDVISTA_COORDINATOR", "MEDVISTA_PROCESSES", "MEDVISTA_PROCESS"
ROWS = PartitionSpec(("data", "fsdp"))
"""Where the rows of a batch go: every slice of the model sees other rows."""

ADVICE = "The last complete checkpoint is intact: start all processes again with the same command and --resume."
_DAY_MS = 24 * 3600 * 1000
# Words of errors by which a collective tells that its other end is gone.
_BROKEN = ("gloo", "closed by peer", "connection reset", "unavailable", "deadline_exceeded", "aborted")

Load = Callable[[int, np.ndarray], Any]
"""``(step, rows) -> pytree``: NumPy leaves with leading axis ``len(rows)``; a pure function of its arguments."""


class HostsError(RuntimeError):
    """The processes do not come together. The message says what to change."""


@dataclasses.dataclass
class Hosts:
    """This process among all of the run. Leaving the context waits for the others.

    An error that leaves the context ends this process with its traceback and exit status 1 (that of ``SystemExit``, 130
    for Ctrl-C), and the others within seconds, with a line that quotes it. A failed collective is somebody else's end:
    who that is gets named, and the exit status is :data:`EXIT_PEER_LOST`.

    Attributes:
      process, processes: own number, and how many there are.
    """

    process: int = 0
    processes: int = 1
    _watch: Watch | None = None
    _barriers: int = 0

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._watch is None:
            return
        if error is None or (isinstance(error, SystemExit) and not error.code):
            distributed.global_state.client.wait_at_barrier("medvista/end", _DAY_MS)
            self._watch.stop()
            return
        status = _exit_status(error)
        # A main that reports errors by itself may have made a status of 1 of a failed collective.
        if _is_broken_collective(error) or (isinstance(error, SystemExit) and status == 1):
            self._watch.suspect()
        # The traceback first: whoever reads the line of another process looks for it here.
        if isinstance(error, HostsError) or (isinstance(error, SystemExit) and isinstance(error.code, str)):
            print(error, file=sys.stderr)
        elif not isinstance(error, SystemExit):
            traceback.print_exception(error)
        self._watch.end(_summary(error), status)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # JAX's clean-up at exit would wait for peers that do not come

    def barrier(self, name: str, seconds: float) -> None:
        """Waits until all processes are here. All must call their barriers in the same order.

        Raises:
          HostsError: not all came within ``seconds``; the message says who did not.
        """
        if self._watch is None:
            return
        client = distributed.global_state.client
        self._barriers += 1
        identity = f"medvista/barrier/{self._barriers}/{name}"
        client.key_value_set(f"{identity}/{self.process}", "here")
        try:
            client.wait_at_barrier(identity, int(1000 * seconds))
        except jax.errors.JaxRuntimeError as error:
            came = {int(key.rsplit("/", 1)[1]) for key, _ in client.key_value_dir_get(identity)}
            missing = ", ".join(str(number) for number in range(self.processes) if number not in came)
            raise HostsError(
                f"barrier {name!r}: after {seconds:g} s, process {missing or '?'} of {self.processes} had not come"
            ) from error


def start_hosts(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    start_seconds: float = 300.0,
    silence_seconds: float = 60.0,
    advice: str = ADVICE,
) -> Hosts:
    """Joins this process to the others of the run; call it before the first JAX computation.

    Who the others are is given by the arguments, else by the environment (``MEDVISTA_COORDINATOR`` as ``host:port`` of
    process 0, ``MEDVISTA_PROCESSES``, ``MEDVISTA_PROCESS``), else found by JAX (Cloud TPU VM, GKE, SLURM, Open MPI). A
    process that is alone gets a :class:`Hosts` that does nothing.

    SIGTERM keeps its meaning: JAX's preemption service, which would catch it, is off.

    Args:
      start_seconds: how long to wait for all to come; a pod may still be pulling its image.
      silence_seconds: a process that is not heard for so long is lost, and the others stop.
      advice: how to go on, the last line of the message then.

    Raises:
      HostsError: incomplete or contradicting settings, a port in use, a coordinator that cannot be reached, processes
        that were started differently, or JAX in use already.
    """
    asked = _asked(coordinator, processes, process)
    if asked.processes == 1 or (asked.coordinator is None and not _in_a_cluster()):
        return Hosts()
    if xla_bridge.backends_are_initialized():
        raise HostsError("start_hosts must come before the first JAX computation, jax.devices() and the like")
    began = time.monotonic()
    if asked.coordinator is not None:
        if asked.process == 0:
            _check_port_is_free(asked.coordinator)
        else:
            _await_coordinator(asked.coordinator, start_seconds)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)
    left = max(1, math.ceil(start_seconds - (time.monotonic() - began)))
    hook = AbortHook(lambda: (_nobody_came(asked, start_seconds), EXIT_PEER_LOST))
    try:
        jax.distributed.initialize(
            asked.coordinator,
            asked.processes,
            asked.process,
            initialization_timeout=left,
            # Behind our own watch, for the case that Python hangs.
            heartbeat_timeout_seconds=max(10, math.ceil(2 * silence_seconds)),
            shutdown_timeout_seconds=max(10, math.ceil(silence_seconds)),
        )
    except (RuntimeError, ValueError, OSError) as error:
        hook.remove()
        raise HostsError(f"the processes could not be connected: {error}") from error
    state = distributed.global_state
    if state.num_processes == 1:
        hook.remove()
        return Hosts()
    place = (state.process_id, state.num_processes, state.coordinator_address)
    watch = Watch(state.client, hook, *place, silence_seconds, advice)
    try:
        _compare(watch, left)
    except HostsError:
        hook.explain = lambda: ("", 1)  # the others leave for the same reason, and JAX would call it a crash
        raise
    watch.start()
    return Hosts(state.process_id, state.num_processes, watch)


def run_on_hosts(main: Callable[[], int]) -> NoReturn:
    """``sys.exit(main())``, together with the other processes of the run if there are any.

    A status other than 0 of one process ends the others, as an exception does; see :class:`Hosts`.
    """
    try:
        hosts = start_hosts()
    except HostsError as error:
        sys.exit(str(error))
    with hosts:
        sys.exit(main())


def is_first() -> bool:
    """Whether this process is the one that prints and writes metrics, tables and reports."""
    return jax.process_index() == 0


def local_rows(total: int, mesh: Mesh) -> np.ndarray:
    """Rows of a global batch that this process's devices hold: int64, ascending.

    They need not be contiguous: a mesh that follows the chips' wiring interleaves hosts. Processes along ``tensor``
    share rows.

    Raises:
      ValueError: the axes ``data`` and ``fsdp`` do not divide ``total``.
    """
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    if total % shares:
        raise ValueError(
            f"a batch of {total} rows cannot be split over mesh {describe(dict(mesh.shape))}; "
            f"give a multiple of {shares}"
        )
    indices = NamedSharding(mesh, ROWS).addressable_devices_indices_map((total,)).values()
    return np.unique(np.concatenate([np.arange(total)[index] for index in indices]))


def host_batch(load: Load, step: int, total: int, mesh: Mesh) -> Any:
    """The global batch of a step, of which every process loads only its own rows.

    Args:
      load: gets the step and :func:`local_rows`. Row ``r`` of a step must not depend on which other rows are asked for:
        then any mesh, and a resumed run, see the same batches. Leaves without axes (a temperature, a key) must be
        the same in all processes and are replicated.
      total: rows of the global batch.

    Returns:
      The loaded tree as global arrays, leading axis ``total``, split over ``data`` and ``fsdp``.

    Raises:
      ValueError: ``total`` cannot be split, or a leaf does not have the rows that were asked for.
    """
    rows = local_rows(total, mesh)

    def join(path: Any, leaf: Any) -> jax.Array:
        if np.ndim(leaf) == 0:
            return _place(leaf, NamedSharding(mesh, PartitionSpec()))
        if len(leaf) != len(rows):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{name} of step {step} has {len(leaf)} rows; {len(rows)} were asked for")
        return _through_key_data(split, leaf)

    def split(leaf: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(NamedSharding(mesh, ROWS), leaf, (total, *leaf.shape[1:]))

    return jax.tree.map_with_path(join, load(step, rows))


def spread(tree: Any, shardings: Any) -> Any:
    """Global arrays of a tree that every process holds whole and equal; each device gets its slice.

    For what is small or read from a file by every process. Large parameters: ``jax.jit(init, out_shardings=…)``.

    Args:
      shardings: one for all leaves, or a tree of them (``runtime.sharding.tree_shardings``).
    """
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(_place, tree, shardings)


@dataclasses.dataclass(frozen=True)
class _Asked:
    coordinator: str | None
    processes: int | None
    process: int | None


def _asked(coordinator: str | None, processes: int | None, process: int | None) -> _Asked:
    """Arguments, filled up from the environment."""
    coordinator = coordinator or os.environ.get(COORDINATOR) or None
    processes = _number(PROCESSES) if processes is None else processes
    process = _number(PROCESS) if process is None else process
    if processes is not None and processes < 1:
        raise HostsError(f"processes={processes}: there is at least one")
    if (coordinator, processes, process) == (None, None, None) or processes == 1:
        return _Asked(coordinator, processes, process)
    named = {COORDINATOR: coordinator, PROCESSES: processes, PROCESS: process}
    missing = [name for name, value in named.items() if value is None]
    if missing:
        raise HostsError(
            f"{' and '.join(missing)} (or the argument of start_hosts) is missing; "
            "give the coordinator's host:port, the number of processes, and the number of this one"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise HostsError(f"{COORDINATOR}={coordinator!r} is not host:port")
    if not 0 <= process < processes:
        raise HostsError(f"process {process} of {processes}: the numbers are 0 to {processes - 1}")
    return _Asked(coordinator, processes, process)


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise HostsError(f"{variable}={text!r} is not a number") from None


def _in_a_cluster() -> bool:
    """Whether JAX knows where its peers are; the same question that ``jax.distributed.initialize()`` asks."""
    return any(env.is_env_present() for env in ClusterEnv._cluster_types if not env.opt_in_only_method)


def _check_port_is_free(address: str) -> None:
    """gRPC shares a port (SO_REUSEPORT) with another run's coordinator, and both would hang."""
    port = int(address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise HostsError(
            f"port {port} of {address} cannot be used ({os.strerror(error.errno)}): is another run going on, or the "
            "one before not over yet? Choose another port for all processes"
        ) from error


def _await_coordinator(address: str, seconds: float) -> None:
    """Waits until something listens there. JAX's client would end the process without a Python exception."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise HostsError(
                    f"the coordinator {address} could not be reached for {seconds:g} s ({error}). "
                    "Is process 0 running, is the address right, and does the firewall let this port through?"
                ) from error
        time.sleep(min(0.5, seconds / 10))


def _nobody_came(asked: _Asked, seconds: float) -> str:
    at = f" at {asked.coordinator}" if asked.coordinator else ""
    count = f"{asked.processes} " if asked.processes else ""
    return (
        f"The {count}processes did not come together{at} within {seconds:g} s; JAX's reason is above. Each must be "
        "started, with the same number of processes and the same address, and with a number of its own from 0 on."
    )


def _compare(watch: Watch, seconds: float) -> None:
    """All processes must have been started alike; a difference would show as a hang much later."""
    mine = {"processes": watch.processes, "jax": jax.__version__}
    try:
        for number, record in watch.introduce(seconds, mine):
            for name, value in mine.items():
                if record[name] != value:
                    raise HostsError(
                        f"process {watch.process} was started with {name}={value}, "
                        f"process {number} (on {record['host']}) with {name}={record[name]}"
                    )
    except TimeoutError as error:
        raise HostsError(f"{error} within {seconds:g} s") from error


def _is_broken_collective(error: BaseException) -> bool:
    if not isinstance(error, (RuntimeError, ValueError)) or isinstance(error, HostsError):
        return False
    return any(word in str(error).lower() for word in _BROKEN)


def _exit_status(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _summary(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"exit status {_exit_status(error)}"
    text = str(error).strip().split("\n")[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """A global array of what every process holds whole; ``jax.device_put`` would compare it between all of them."""

    def slices(whole: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return _through_key_data(slices, leaf)


def _through_key_data(function: Callable[[np.ndarray], jax.Array], leaf: Any) -> jax.Array:
    """``function`` of a leaf as NumPy; typed keys go through their data, whose added axis no sharding here names."""
    if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = function(np.asarray(jax.random.key_data(leaf)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return function(np.asarray(leaf))
