"""One batch of host calls in a pool of threads. Nothing that a tool does reaches another call or the caller.

``concurrent.futures`` does not serve here: its threads are joined when the interpreter ends, so that one tool that
hangs keeps the process alive, and a thread that hangs is lost to the calls that wait behind it.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
import zlib
from collections.abc import Mapping, Sequence

from medvista_jax.core.types import Fault
from medvista_jax.tools.host.call import HostCall, HostReply, HostTool, ToolFailed, TryAgain

MAX_PAUSE_S = 30.0
"""Longest pause before a retry; a server that asks for a longer one has failed."""

MAX_ABANDONED = 64
"""Hanging threads of one tool that may be left behind; beyond them its calls time out at once."""

CUT = " …"
"""Ends a reply that was cut."""

_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class _Job:
    """Calls that one thread answers: one call, or all of a batched tool. Guarded by the batch's condition.

    ``deadline`` is the end of the present attempt in ``time.monotonic``, None while none runs; ``outcomes`` holds the
    text of each row, or its last error.
    """

    tool: HostTool
    rows: list[int]
    thread: threading.Thread | None = None
    deadline: float | None = None
    finished: bool = False
    outcomes: dict[int, str | BaseException] = dataclasses.field(default_factory=dict)


class _Batch:
    """The threads' common state: jobs that wait, replies, and the causes of the faults."""

    def __init__(self, calls: Sequence[HostCall], jobs: Sequence[_Job]):
        self.calls, self.jobs = calls, jobs
        self.waiting: collections.deque[_Job] = collections.deque()
        self.changed = threading.Condition()
        self.stopped = False
        self.replies: list[HostReply | None] = [None] * len(calls)
        self.causes: list[BaseException | None] = [None] * len(calls)

    def refuse_hanging(self) -> None:
        """A tool that always hangs would leave a thread behind for each call of a long run."""
        hanging = collections.Counter(thread.name for thread in threading.enumerate())
        for job in self.jobs:
            if hanging[_abandoned(job.tool)] >= MAX_ABANDONED:
                for row in job.rows:
                    self._settle(job, row, TimeoutError(f"{MAX_ABANDONED} earlier calls still hang"))
                job.finished = True
        self.waiting = collections.deque(job for job in self.jobs if not job.finished)

    def start_thread(self) -> None:
        threading.Thread(target=self._work, name="host tools", daemon=True).start()

    def _work(self) -> None:
        """Takes jobs until none is left; ends early when its own job was given up, for another thread took over."""
        while True:
            with self.changed:
                if self.stopped or not self.waiting:
                    return
                job = self.waiting.popleft()
                job.thread = threading.current_thread()
            self._attempts(job)
            with self.changed:
                if job.finished or self.stopped:
                    return
                for row, outcome in job.outcomes.items():
                    self._settle(job, row, outcome)
                job.finished = True
                self.changed.notify_all()

    def _attempts(self, job: _Job) -> None:
        """Asks for each row's text; only rows that are worth it are tried again."""
        pending = job.rows
        for attempt in range(job.tool.retries + 1):
            with self.changed:
                if job.finished:
                    break
                job.deadline = time.monotonic() + job.tool.timeout_s
                self.changed.notify_all()
            answers = _answers(job.tool, [self.calls[row] for row in pending])
            with self.changed:
                job.outcomes |= zip(pending, answers, strict=True)
                job.deadline = None
            pauses = {row: _pause(job.tool, job.outcomes[row], row, attempt) for row in pending}
            pending = [row for row in pending if pauses[row] is not None]
            if not pending or attempt == job.tool.retries or not self._sleep(max(pauses[row] for row in pending)):
                break

    def _sleep(self, seconds: float) -> bool:
        """Whether the batch still goes on afterwards."""
        with self.changed:
            return not self.changed.wait_for(lambda: self.stopped, seconds)

    def _settle(self, job: _Job, row: int, outcome: str | BaseException) -> None:
        if isinstance(outcome, str):
            self.replies[row] = HostReply(clean_text(outcome, job.tool.text_bytes))
        else:
            self.replies[row] = HostReply("", fault_of(outcome))
            self.causes[row] = outcome

    def wait(self) -> None:
        """Returns when every job has finished or was given up."""
        with self.changed:
            while open_jobs := [job for job in self.jobs if not job.finished]:
                now = time.monotonic()
                for job in open_jobs:
                    if job.deadline is not None and job.deadline <= now:
                        self._give_up(job)
                deadlines = [job.deadline for job in open_jobs if not job.finished and job.deadline is not None]
                if not all(job.finished for job in open_jobs):
                    self.changed.wait(min(deadlines) - now if deadlines else None)

    def _give_up(self, job: _Job) -> None:
        assert job.thread is not None
        job.thread.name = _abandoned(job.tool)
        late = TimeoutError(f"no answer within {job.tool.timeout_s:g} s")
        for row in job.rows:
            earlier = job.outcomes.get(row)  # of an attempt before the one that hangs
            self._settle(job, row, earlier if isinstance(earlier, str) else late)
        job.finished = True
        if self.waiting:
            self.start_thread()  # in place of the one that hangs


def run_batch(tools: Mapping[str, HostTool], calls: Sequence[HostCall], workers: int = 8) -> list[HostReply]:
    """Answers all calls, in order; waits for the slowest, at most its time-outs and pauses.

    What a tool raises becomes a fault of its own calls: TOOL_TIMED_OUT for no answer in time, the fault of a
    :class:`~medvista_jax.tools.host.call.ToolFailed`, else TOOL_FAILED. The policy reads the fault's text; the cause
    is logged, one line for each tool and kind of error in the batch. Texts are cut to the tool's ``text_bytes``.

    Ctrl-C ends the wait at once and no further call is begun; calls that run are left behind.

    Args:
      tools: by name; a call of a tool that is not here gets UNKNOWN_TOOL.
      calls: of any of them, mixed.
      workers: threads, at least 1.

    Raises:
      ValueError: for ``workers`` below 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    batch = _Batch(calls, _jobs(tools, calls))
    for row, call in enumerate(calls):
        if call.tool not in tools:
            batch.replies[row] = HostReply("", Fault.UNKNOWN_TOOL)
    batch.refuse_hanging()
    try:
        for _ in range(min(workers, len(batch.waiting))):
            batch.start_thread()
        batch.wait()
    finally:
        with batch.changed:
            batch.stopped = True
            batch.changed.notify_all()
    _log(batch)
    replies = [reply for reply in batch.replies if reply is not None]
    assert len(replies) == len(calls), "a call has no reply"
    return replies


def _jobs(tools: Mapping[str, HostTool], calls: Sequence[HostCall]) -> list[_Job]:
    jobs: list[_Job] = []
    together: dict[str, _Job] = {}
    for row, call in enumerate(calls):
        tool = tools.get(call.tool)
        if tool is None:
            continue
        if call.tool in together:
            together[call.tool].rows.append(row)
            continue
        jobs.append(_Job(tool, [row]))
        if tool.batched:
            together[call.tool] = jobs[-1]
    return jobs


def _abandoned(tool: HostTool) -> str:
    return f"abandoned call of {tool.name}"


def _answers(tool: HostTool, calls: Sequence[HostCall]) -> list[str | BaseException]:
    """One attempt: a text or an exception for each call."""
    try:
        answers = tool.run(calls)
        if isinstance(answers, str) or len(answers) != len(calls):
            raise TypeError(f"run must return a list of {len(calls)} texts")
        return [
            answer if isinstance(answer, str | Exception) else TypeError(f"returned {type(answer).__name__}, not str")
            for answer in answers
        ]
    except BaseException as error:  # sys.exit() of a tool, too, ends this call and nothing else
        return [error] * len(calls)


def _pause(tool: HostTool, outcome: str | BaseException, row: int, attempt: int) -> float | None:
    """Seconds until another attempt, None when none is worth it.

    Exponential backoff with half of it jittered, so that the rows of a batch do not come back all at once; the jitter
    is a hash of tool, row and attempt, the same in every run.
    """
    if not isinstance(outcome, TryAgain | ConnectionError | TimeoutError):
        return None
    asked = (outcome.after_s or 0.0) if isinstance(outcome, TryAgain) else 0.0
    if asked > MAX_PAUSE_S:
        return None
    jitter = zlib.crc32(f"{tool.name} {row} {attempt}".encode()) / 2**32
    return max(asked, min(tool.backoff_s * 2**attempt * (0.5 + 0.5 * jitter), MAX_PAUSE_S))


def fault_of(error: BaseException) -> Fault:
    """What the policy reads for an error of a tool."""
    if isinstance(error, ToolFailed | TryAgain):
        return error.fault
    return Fault.TOOL_TIMED_OUT if isinstance(error, TimeoutError) else Fault.TOOL_FAILED


def clean_text(text: str, limit: int) -> str:
    """The text as an observation holds it.

    Control characters but newline and tab become spaces, what UTF-8 cannot hold becomes ``?``, and what is longer
    than ``limit`` bytes is cut between two characters and ends with :data:`CUT`.
    """
    text = text[: limit + 1]  # a character is a byte at least, so no more can count
    text = "".join(c if c.isprintable() or c in "\n\t" else " " for c in text.encode(errors="replace").decode())
    raw = text.encode()
    if len(raw) <= limit:
        return text
    return raw[: max(limit - len(CUT.encode()), 0)].decode(errors="ignore").rstrip() + CUT


def _log(batch: _Batch) -> None:
    causes: dict[tuple[str, type], list[BaseException]] = collections.defaultdict(list)
    for call, cause in zip(batch.calls, batch.causes, strict=True):
        if cause is not None:
            causes[call.tool, type(cause)].append(cause)
    for (tool, kind), errors in causes.items():
        total = sum(call.tool == tool for call in batch.calls)
        failed = f"{len(errors)} of {total} calls failed"
        _logger.warning("host tool %s: %s, the first with %s: %s", tool, failed, kind.__name__, errors[0])
        _logger.debug("host tool %s", tool, exc_info=errors[0])
