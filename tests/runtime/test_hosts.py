"""Processes that start together, load their own rows, and notice when one of them is gone."""

import json
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from medvista_jax.runtime.hosts import (
    COORDINATOR,
    PROCESS,
    PROCESSES,
    HostsError,
    host_batch,
    is_first,
    local_rows,
    run_on_hosts,
    spread,
    start_hosts,
)
from medvista_jax.runtime.mesh import make_mesh
from medvista_jax.runtime.peers import EXIT_PEER_LOST
from tests import tiny
from tests.runtime.hosts.launch import ROOT, Processes, free_port
from tests.runtime.hosts.meet import SILENCE

MEET = "tests.runtime.hosts.meet"
# The watch needs SILENCE and a tick; the rest is for a loaded machine to run its threads and end the process.
STOPS_WITHIN = SILENCE + 8.0


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (COORDINATOR, PROCESSES, PROCESS):
        monkeypatch.delenv(name, raising=False)


def results(outputs):
    return [json.loads(output.split("RESULT ")[1].splitlines()[0]) for output in outputs]


def test_a_process_that_is_alone():
    jax.numpy.zeros(1).block_until_ready()  # JAX may be in use already
    mesh = make_mesh(devices=jax.devices()[:1])
    with start_hosts() as hosts, start_hosts(processes=1):
        hosts.barrier("alone", 0.1)
        assert (hosts.process, hosts.processes, is_first()) == (0, 1, True)
        assert local_rows(6, mesh).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_status_of_main_is_that_of_the_process():
    with pytest.raises(SystemExit) as left:
        run_on_hosts(lambda: 7)
    assert left.value.code == 7


def test_errors_pass_through_a_process_that_is_alone():
    with pytest.raises(KeyError), start_hosts():
        raise KeyError("mine")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({COORDINATOR: "host:1"}, f"{PROCESSES} and {PROCESS} .* is missing"),
        ({PROCESSES: "2"}, f"{COORDINATOR} and {PROCESS} .* is missing"),
        ({COORDINATOR: "host:1", PROCESSES: "2"}, f"^{PROCESS} .* is missing"),
        ({COORDINATOR: "host", PROCESSES: "2", PROCESS: "0"}, "'host' is not host:port"),
        ({COORDINATOR: "host:70000", PROCESSES: "2", PROCESS: "0"}, "not host:port"),
        ({COORDINATOR: "host:1", PROCESSES: "2", PROCESS: "2"}, "process 2 of 2: the numbers are 0 to 1"),
        ({COORDINATOR: "host:1", PROCESSES: "two", PROCESS: "0"}, "'two' is not a number"),
        ({COORDINATOR: "host:1", PROCESSES: "0", PROCESS: "0"}, "at least one"),
        ({COORDINATOR: "host:1", PROCESSES: "2", PROCESS: "1"}, "before the first JAX computation"),
    ],
)
def test_settings_that_cannot_be(monkeypatch, variables, says):
    jax.numpy.zeros(1).block_until_ready()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HostsError, match=says):
        start_hosts()


def test_a_port_in_use(tmp_path):
    port = free_port()
    address = f"127.0.0.1:{port}"
    with socket.create_server(("127.0.0.1", port)):
        with Processes(tmp_path, MEET, "meet", 5, count=2, variables={0: {COORDINATOR: address}}) as run:
            status, said = run.ends(0, 30)
    assert status == 1 and f"port {port} of {address} cannot be used (Address already in use)" in said, said
    assert "Traceback" not in said


def test_a_coordinator_that_is_not_there(tmp_path):
    lonely = {1: {COORDINATOR: f"127.0.0.1:{free_port()}"}}
    with Processes(tmp_path, MEET, "meet", 1, count=2, variables=lonely) as run:
        status, said = run.ends(1, 30)
        assert status == 1 and "could not be reached for 1 s" in said and "Is process 0 running" in said, said
        assert "Traceback" not in said
        # So process 0 waits in vain, for as long as it was told.
        status, said = run.ends(0, 30)
    assert status == EXIT_PEER_LOST, said
    assert "The 2 processes did not come together at 127.0.0.1" in said and "within 1 s" in said


def test_processes_that_were_started_with_different_counts(tmp_path):
    with Processes(tmp_path, MEET, "meet", 30, count=2, variables={1: {PROCESSES: "3"}}) as run:
        said = run.all_end(status=1, seconds=40)
    assert "process 0 was started with processes=2, process 1 (on" in said[0] and "with processes=3" in said[0]
    assert "process 1 was started with processes=3, process 0 (on" in said[1] and "with processes=2" in said[1]


def test_a_cluster_that_jax_detects(tmp_path):
    def slurm(number: int) -> dict:
        return {
            **dict.fromkeys((COORDINATOR, PROCESSES, PROCESS)),
            "SLURM_JOB_ID": "1234",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(number),
            "SLURM_LOCALID": str(number),
            "SLURM_STEP_NUM_NODES": "1",
            "JAX_COORDINATOR_PORT": str(port),
        }

    port = free_port()
    with Processes(tmp_path, MEET, "meet", 30, count=2, variables={0: slurm(0), 1: slurm(1)}) as run:
        found = results(run.all_end())
    assert found == [{"process": number, "processes": 2, "devices": 2, "first": number == 0} for number in range(2)]


def test_rows_values_votes_and_barriers(tmp_path):
    with Processes(tmp_path, MEET, "data", 30, count=2, devices=2) as run:
        first, second = results(run.all_end())
    rows = {
        "plain": ([0, 1, 2, 3], [4, 5, 6, 7]),
        "interleaved": ([0, 1, 4, 5], [2, 3, 6, 7]),
        "tensor": ([*range(8)],) * 2,
    }
    for name, step in (("plain", 1), ("interleaved", 2), ("tensor", 3)):
        assert (first[name].pop("rows"), second[name].pop("rows")) == rows[name]
        assert first[name] == second[name]
        np.testing.assert_array_equal(first[name]["x"], [[1000 * step + r, 1000 * step + r + 0.5] for r in range(8)])
        draws = [float(jax.random.uniform(jax.random.key(100 * step + row), ())) for row in range(8)]
        np.testing.assert_array_equal(np.float32(first[name]["draws"]), np.float32(draws))
        assert np.float32(first[name]["once"]) == np.float32(jax.random.uniform(jax.random.key(step), ()))
        assert np.float32(first[name]["temperature"]) == np.float32(0.7)
    assert first["shards"] == second["shards"] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert first["sum"] == second["sum"] == 28
    # Process 1 asks at its second vote; both hear of it at the third.
    assert first["votes"] == second["votes"] == [0, 0, 143, 0]
    assert first["late"] == "barrier 'late': after 1 s, process 1 of 2 had not come"


def test_a_batch_of_questions_and_keys():
    """What a step of GRPO takes; row by row, in any mesh, the same as all rows at once."""
    mesh = make_mesh(devices=jax.devices()[:1])
    whole = tiny.make_question(seed=4), tiny.make_key()
    batch = host_batch(lambda step, rows: jax.tree.map(lambda x: np.asarray(x)[rows], whole), 4, 3, mesh)
    assert tiny.same_bits(batch, whole)
    assert {leaf.sharding.spec for leaf in jax.tree.leaves(batch)} == {PartitionSpec(("data", "fsdp"))}


def test_batches_that_cannot_be():
    mesh = jax.sharding.AbstractMesh((2, 4, 1), ("data", "fsdp", "tensor"))
    with pytest.raises(ValueError, match="10 rows cannot be split over mesh data=2,fsdp=4,tensor=1.* multiple of 8"):
        local_rows(10, mesh)
    one = make_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="script/tokens of step 3 has 2 rows; 4 were asked for"):
        host_batch(lambda step, rows: {"script": {"tokens": np.zeros((2, 5))}}, 3, 4, one)


def test_spread_takes_a_state_with_a_key():
    mesh = make_mesh(devices=jax.devices()[:1])
    state = tiny.make_state()
    placed = spread(state, jax.sharding.NamedSharding(mesh, PartitionSpec()))
    assert tiny.same_bits(placed, state)
    assert placed.key.dtype == state.key.dtype


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_process_that_dies_stops_the_other(tmp_path, victim, kind):
    with Processes(tmp_path, MEET, "loop", 60, count=2) as run:
        run.wait_for("going")
        run.send(victim, kind)
        began = time.monotonic()
        status, said = run.ends(1 - victim, STOPS_WITHIN)
        assert status == EXIT_PEER_LOST, f"after {time.monotonic() - began:.1f} s:\n{run.said()}"
        pid = run.processes[victim].pid
        line = f"medvista: Process {victim} of 2 (pid {pid} on {socket.gethostname()}) is gone: "
        *_, message, advice = said.strip().splitlines()
        assert message.startswith(line), said
        assert message.endswith(f"So process {1 - victim} stops, with exit status {EXIT_PEER_LOST}."), said
        assert "start all processes again with the same command and --resume" in advice
        if kind == signal.SIGSTOP:  # and when it wakes up, it goes, too
            run.send(victim, signal.SIGCONT)
            status, said = run.ends(victim, STOPS_WITHIN)
            assert status == EXIT_PEER_LOST and f"Process {1 - victim} of 2" in said, said


def test_a_program_that_reports_errors_by_itself_does_not_hide_who_died(tmp_path):
    with Processes(tmp_path, MEET, "swallow", 60, count=2) as run:
        run.wait_for("going")
        run.send(1, signal.SIGKILL)
        status, said = run.ends(0, STOPS_WITHIN)
        assert status == EXIT_PEER_LOST and "Process 1 of 2" in said, said


def test_all_others_name_the_one_that_died(tmp_path):
    """And not the first of them that stopped for it."""
    with Processes(tmp_path, MEET, "loop", 60, count=4) as run:
        run.wait_for("going")
        run.send(2, signal.SIGKILL)
        for other in (0, 1, 3):
            status, said = run.ends(other, STOPS_WITHIN)
            assert status == EXIT_PEER_LOST and f"Process 2 of 4 (pid {run.processes[2].pid} on " in said, run.said()


@pytest.mark.parametrize(("what", "culprit"), [("fail", 1), ("fail_first", 0)])
def test_an_error_of_one_is_the_reason_of_all(tmp_path, what, culprit):
    with Processes(tmp_path, MEET, what, 60, count=2) as run:
        status, said = run.ends(culprit)
        assert status == 1 and "FileNotFoundError: no atlas in /data/atlas" in said and "Traceback" in said, said
        status, said = run.ends(1 - culprit, STOPS_WITHIN)
        assert status == EXIT_PEER_LOST, run.said()
        assert "is gone: it stopped: FileNotFoundError: no atlas in /data/atlas." in said, said


def test_all_leave_for_the_same_reason(tmp_path):
    """Each with its own exit status: nobody calls the others lost."""
    with Processes(tmp_path, MEET, "leave", 60, count=2) as run:
        said = run.all_end(status=130)
    assert all("is gone" not in output for output in said)


def test_who_takes_his_time_is_not_lost(tmp_path):
    with Processes(tmp_path, MEET, "lag", 60, count=2) as run:
        assert results(run.all_end()) == [{"done": True}, {"done": True}]


def test_the_check_of_a_new_slice(tmp_path):
    """experiments/hosts_check.py: one of two gets SIGTERM, both save the same step, and a new run goes on there."""
    command = ("experiments.hosts_check", "--out", tmp_path / "run", "--width", 16)
    with Processes(tmp_path / "one", *command, "--pause", 0.02, "--steps", 5000, count=2) as run:
        run.wait_for("step 20: loss", first=True)
        run.send(1, signal.SIGTERM)
        said = run.all_end(status=143)
    stopped = int(said[0].split("stopped after step ")[1].split(";")[0])
    assert "2 processes, 2 devices (cpu): data=1,fsdp=2,tensor=1" in said[0] and "loss" not in said[1]
    with Processes(tmp_path / "two", *command, "--steps", stopped + 3, "--resume", count=2) as run:
        said = run.all_end()
    assert f"going on after step {stopped}\n" in said[0] and f"step {stopped + 3}: loss" in said[0]


def test_an_abort_that_comes_before_its_reason(tmp_path):
    """A connection breaks before the process at its other end is known to be gone."""
    with Processes(tmp_path, MEET, "abort_early", 60, count=2) as run:
        status, said = run.ends(0)
        assert status == EXIT_PEER_LOST and f"Process 1 of 2 (pid {run.processes[1].pid} on " in said, run.said()


def test_an_abort_that_nobody_else_is_to_blame_for(tmp_path):
    with Processes(tmp_path, MEET, "abort", 60, count=2) as run:
        status, said = run.ends(0)
        assert status == -signal.SIGABRT and "is gone" not in said, run.said()
        status, said = run.ends(1, STOPS_WITHIN)
        assert status == EXIT_PEER_LOST and "Process 0 of 2" in said, run.said()


def test_other_aborts_stay_aborts():
    """The handler of SIGABRT speaks only for lost peers."""
    code = "import os; from medvista_jax.runtime.peers import AbortHook; hook = AbortHook(lambda: None); os.abort()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGABRT
