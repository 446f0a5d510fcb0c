"""A batch of host calls: order, faults, retries, and that nothing a tool does harms the others."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Fault
from medvista_jax.tools.host import batch as batch_module
from medvista_jax.tools.host.batch import CUT, clean_text, run_batch
from medvista_jax.tools.host.call import HostCall, HostReply, HostTool, ToolFailed, TryAgain

FOREVER = 20.0  # seconds; a test that waited for it would be noticed


def make(name, answer, **settings):
    """A tool that answers one call with ``answer(call)``."""
    return HostTool(ToolSpec(name, "A tool.", ()), lambda calls: [answer(call) for call in calls], **settings)


def ask(*tools, calls, **settings):
    named = [HostCall(tool, None, {"n": n}) for tool, n in calls]
    return run_batch({tool.name: tool for tool in tools}, named, **settings)


class Flaky:
    """Raises the given errors one after the other, then answers."""

    def __init__(self, *errors):
        self.errors, self.attempts = list(errors), 0

    def __call__(self, call):
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)
        return f"after {self.attempts}"


def raises(error):
    def answer(call):
        raise error

    return answer


def test_replies_come_in_the_order_of_the_calls_whatever_ends_first():
    echo = make("echo", lambda call: (time.sleep(0.02 * (5 - call.arguments["n"])), str(call.arguments["n"]))[1])
    replies = ask(echo, calls=[("echo", n) for n in range(5)])
    assert replies == [HostReply(str(n)) for n in range(5)]


def test_calls_run_at_the_same_time():
    together = threading.Barrier(4)  # breaks unless four calls stand before it at once
    meet = make("meet", lambda call: str(together.wait(5) >= 0), timeout_s=FOREVER)
    assert ask(meet, calls=[("meet", n) for n in range(4)], workers=4) == [HostReply("True")] * 4


def test_no_more_calls_run_at_once_than_there_are_workers():
    running, most, lock = 0, 0, threading.Lock()

    def answer(call):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return ""

    ask(make("count", answer), calls=[("count", n) for n in range(9)], workers=3)
    assert most == 3


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (raises(ValueError("bad")), Fault.TOOL_FAILED),
        (raises(SystemExit(1)), Fault.TOOL_FAILED),
        (raises(KeyboardInterrupt()), Fault.TOOL_FAILED),
        (raises(RecursionError()), Fault.TOOL_FAILED),
        (raises(ToolFailed("grey", Fault.UNSUITABLE_IMAGE)), Fault.UNSUITABLE_IMAGE),
        (raises(TimeoutError()), Fault.TOOL_TIMED_OUT),
        (lambda call: 7, Fault.TOOL_FAILED),
        (lambda call: None, Fault.TOOL_FAILED),
        (lambda call: b"bytes", Fault.TOOL_FAILED),
        (lambda call: time.sleep(FOREVER), Fault.TOOL_TIMED_OUT),
    ],
)
def test_a_bad_tool_is_a_fault_of_its_own_calls(answer, fault):
    bad, good = make("bad", answer, timeout_s=0.1), make("good", lambda call: "well")
    replies = ask(bad, good, calls=[("good", 0), ("bad", 0), ("good", 1)])
    assert replies == [HostReply("well"), HostReply("", fault), HostReply("well")]


def test_hanging_calls_do_not_keep_the_others_from_a_thread():
    def answer(call):
        if call.arguments["n"] < 3:
            time.sleep(FOREVER)
        return "well"

    replies = ask(make("some", answer, timeout_s=0.1), calls=[("some", n) for n in range(6)], workers=2)
    assert [reply.fault for reply in replies] == [Fault.TOOL_TIMED_OUT] * 3 + [Fault.NONE] * 3


def test_a_late_answer_changes_nothing():
    def wait_for_the_other(call):
        time.sleep(0.1)  # past the other's time
        go.set()
        for thread in threading.enumerate():
            if thread.name == "abandoned call of late":
                thread.join(5)
        return "well"

    go = threading.Event()
    late = make("late", lambda call: (go.wait(FOREVER), "late")[1], timeout_s=0.05)
    replies = ask(late, make("slow", wait_for_the_other), calls=[("late", 0), ("slow", 0)])
    assert replies == [HostReply("", Fault.TOOL_TIMED_OUT), HostReply("well")]


def test_a_tool_that_always_hangs_is_refused_after_some_threads(monkeypatch, caplog):
    monkeypatch.setattr(batch_module, "MAX_ABANDONED", 2)
    go, asked = threading.Event(), []
    stuck = make("stuck", lambda call: (asked.append(call), go.wait(FOREVER), "")[2], timeout_s=0.05)
    ask(stuck, calls=[("stuck", 0), ("stuck", 1)])
    assert ask(stuck, calls=[("stuck", 2)]) == [HostReply("", Fault.TOOL_TIMED_OUT)]
    assert len(asked) == 2 and "2 earlier calls still hang" in caplog.text
    go.set()  # they end, and the tool is asked again
    for thread in threading.enumerate():
        if thread.name == "abandoned call of stuck":
            thread.join(5)
    assert ask(stuck, calls=[("stuck", 3)]) == [HostReply("")]


@pytest.mark.parametrize("error", [TryAgain("busy"), ConnectionResetError(), TimeoutError()])
def test_what_may_pass_is_tried_again(error):
    flaky = Flaky(error, error)
    assert ask(make("flaky", flaky, retries=2, backoff_s=0.001), calls=[("flaky", 0)]) == [HostReply("after 3")]


@pytest.mark.parametrize("error", [ValueError(), ToolFailed("no"), FileNotFoundError(), TryAgain("later", 999.0)])
def test_what_will_not_pass_is_not_tried_again(error):
    flaky = Flaky(error)
    assert ask(make("flaky", flaky, retries=5, backoff_s=0.001), calls=[("flaky", 0)])[0].fault == Fault.TOOL_FAILED
    assert flaky.attempts == 1


def test_retries_end_and_leave_the_last_fault():
    flaky = Flaky(TryAgain("busy"), TryAgain("busy", fault=Fault.TOOL_TIMED_OUT), TryAgain("never raised"))
    reply = ask(make("flaky", flaky, retries=1, backoff_s=0.001), calls=[("flaky", 0)])[0]
    assert (reply.fault, flaky.attempts) == (Fault.TOOL_TIMED_OUT, 2)


def test_pauses_double_are_jittered_by_half_and_the_same_in_every_run():
    tool = make("t", None, retries=9, backoff_s=0.1)
    pauses = [[batch_module._pause(tool, TryAgain(""), row, attempt) for row in range(50)] for attempt in range(3)]
    for attempt, row in enumerate(pauses):
        assert all(0.05 * 2**attempt <= pause < 0.1 * 2**attempt for pause in row)
        assert len(set(row)) == 50
    # The CRC-32 that gzip writes for "t 0 0": a hash that is the same in every process, unlike Python's.
    assert pauses[0][0] == pytest.approx(0.05 * (1 + 4252299186 / 2**32), rel=1e-12)
    assert batch_module._pause(tool, TryAgain("", after_s=3.0), 0, 0) == 3.0
    assert batch_module._pause(tool, TryAgain(""), 0, 30) == batch_module.MAX_PAUSE_S


def test_a_batched_tool_gets_its_calls_at_once_and_only_the_unlucky_ones_again():
    seen = []

    def run(calls):
        seen.append([call.arguments["n"] for call in calls])
        first = len(seen) == 1
        return [TryAgain("busy") if first and call.arguments["n"] % 2 else str(call.arguments["n"]) for call in calls]

    tool = HostTool(ToolSpec("model", "A model.", ()), run, retries=1, backoff_s=0.001, batched=True)
    other = make("other", lambda call: "other")
    replies = ask(tool, other, calls=[("model", 0), ("other", 0), ("model", 1), ("model", 2), ("model", 3)])
    assert [reply.text for reply in replies] == ["0", "other", "1", "2", "3"]
    assert seen == [[0, 1, 2, 3], [1, 3]]


def test_a_retry_that_hangs_takes_nothing_from_the_rows_that_were_answered():
    def run(calls):
        if len(calls) == 1:
            time.sleep(FOREVER)
        return ["well", TryAgain("busy")]

    tool = HostTool(ToolSpec("model", "A model.", ()), run, timeout_s=0.1, retries=1, backoff_s=0.001, batched=True)
    replies = ask(tool, calls=[("model", 0), ("model", 1)])
    assert replies == [HostReply("well"), HostReply("", Fault.TOOL_TIMED_OUT)]


@pytest.mark.parametrize("answer", [lambda calls: ["one"], lambda calls: "ab", lambda calls: None])
def test_a_batched_tool_that_returns_another_number_of_texts_fails(answer):
    tool = HostTool(ToolSpec("model", "A model.", ()), answer, batched=True)
    assert ask(tool, calls=[("model", 0), ("model", 1)]) == [HostReply("", Fault.TOOL_FAILED)] * 2


def test_an_unknown_tool_and_an_empty_batch():
    assert ask(calls=[("nobody", 0)]) == [HostReply("", Fault.UNKNOWN_TOOL)]
    assert run_batch({}, []) == []
    with pytest.raises(ValueError, match="workers must be at least 1, not 0"):
        run_batch({}, [], workers=0)


def test_the_operator_reads_each_cause_once(caplog):
    def answer(call):
        raise (ValueError if call.arguments["n"] else LookupError)(f"row {call.arguments['n']}")

    with caplog.at_level(logging.WARNING):
        replies = ask(make("bad", answer), calls=[("bad", n) for n in range(5)], workers=1)
    assert all(reply.text == "" for reply in replies)  # the policy reads the fault's text, never the cause
    assert [record.getMessage() for record in caplog.records] == [
        "host tool bad: 1 of 5 calls failed, the first with LookupError: row 0",
        "host tool bad: 4 of 5 calls failed, the first with ValueError: row 1",
    ]


def test_a_megabyte_is_cut_to_the_documented_bytes():
    reply = ask(make("loud", lambda call: "é" * 2**20, text_bytes=101), calls=[("loud", 0)])[0]
    # 101 bytes less 4 of " …" hold 48 whole characters of two bytes.
    assert reply == HostReply("é" * 48 + CUT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("a\x00\x1b[31m\r", "a  [31m "),
        ("\ud800x", "?x"),
        ("12345678", "12345678"),
        ("123456789", "1234 …"),
        ("日本語", "日 …"),
    ],
)
def test_texts_are_cleaned(text, expected):
    assert clean_text(text, 8) == expected


def test_an_image_is_checked_and_cannot_be_written():
    pixels = np.zeros((2, 3, 3), np.uint8)
    call = HostCall("t", pixels, {})
    with pytest.raises(ValueError, match="read-only"):
        call.image[0, 0, 0] = 1
    pixels[0, 0, 0] = 1  # the caller's own array stays its own
    for bad in (np.zeros((2, 3), np.uint8), np.zeros((2, 3, 3), np.float32), np.zeros((0, 3, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"call of t: the image must be uint8 \[Y, X, 3\], not"):
            HostCall("t", bad, {})


PROGRAM = """
import time
from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.tools.host.batch import run_batch
from medvista_jax.tools.host.call import HostCall, HostTool
def answer(calls):
    print("ready", flush=True)
    time.sleep(60)
tool = HostTool(ToolSpec("slow", "", ()), answer, timeout_s={timeout})
print(run_batch({{"slow": tool}}, [HostCall("slow", None, {{}})])[0].fault.name, flush=True)
"""


def start(timeout):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(timeout=timeout)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_control_c_and_hanging_threads_do_not_hold_the_process():
    hanging, stopped = start(0.1), start(60)
    assert stopped.stdout.readline() == "ready\n"
    stopped.send_signal(signal.SIGINT)
    _, error = stopped.communicate(timeout=20)  # seconds, of the 60 that the tool sleeps
    assert "KeyboardInterrupt" in error and stopped.returncode != 0
    out, _ = hanging.communicate(timeout=20)
    assert out == "ready\nTOOL_TIMED_OUT\n" and hanging.returncode == 0
