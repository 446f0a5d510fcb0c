import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from medvista_jax.runtime.interrupt import Interrupted, Interrupts

LOOP = """
import sys, time
from medvista_jax.runtime.interrupt import Interrupts
with Interrupts() as interrupts:
    print("ready", flush=True)
    for step in range(400):
        time.sleep(0.05)
        if interrupts.requested:
            print("saved at the end of a step", flush=True)
            if sys.argv[1] == "polite":
                break
print("left the loop", flush=True)
"""

# One native call that no signal ends, as a long compilation is: a mutex locked twice. Another thread says when the main
# one has been in it for a while: two signals before it would end in a plain KeyboardInterrupt.
DEAF = """
import ctypes, threading
from medvista_jax.runtime.interrupt import Interrupts
libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)
with Interrupts():
    libc.pthread_mutex_lock(mutex)
    threading.Timer(0.5, lambda: print("ready", flush=True)).start()
    libc.pthread_mutex_lock(mutex)
"""


def start(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_first_signal_lets_the_step_end():
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(LOOP, "polite")
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        assert process.returncode == 0
        assert out == "saved at the end of a step\nleft the loop\n"
        assert "Once more (Ctrl-C) aborts at once" in err


def test_second_signal_aborts():
    process = start(LOOP, "stubborn")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saved at the end of a step\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode != 0
    assert "left the loop" not in out
    assert "KeyboardInterrupt" in err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="zeros are a mutex on Linux only")
def test_second_signal_ends_even_a_native_call():
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = start(DEAF)
        process.send_signal(number)
        # The answer comes at once although Python's own handler cannot run.
        assert "Stopping after this step" in process.stderr.readline() + process.stderr.readline()
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=10) == code
        process.communicate()


def test_the_first_signal_decides_the_exit_status():
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with Interrupts() as interrupts:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            stopped = interrupts.stopped("stopped after step 3")
        assert isinstance(stopped, Interrupted)
        assert (stopped.args[0], stopped.exit_code) == ("stopped after step 3", code)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        assert interrupts.stopped("impatient").exit_code == 143


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        assert not interrupts.requested
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        assert interrupts.requested
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_outside_the_main_thread_it_is_only_a_flag():
    seen = []

    def work():
        with Interrupts() as interrupts:
            seen.append(interrupts.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
