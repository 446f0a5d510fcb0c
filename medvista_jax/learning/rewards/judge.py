"""Accuracy from the host: any Python function, or a language model as the judge.

The device compares bytes; a judge knows that "it is pink" answers "pink". It runs outside of the compiled program and
hands back ``accuracy_B``, which every preset takes as its third argument, so that nothing compiles anew::

    endpoint = Endpoint("http://127.0.0.1:8000/v1", protocol="chat", model="qwen")
    judge = LanguageModelJudge(endpoint, cache=Path("judged.jsonl"))
    judged = host_accuracy(judge, questions, references, trajectory, key)
    terms = PRESETS["deepeyes"](trajectory, key, judged.accuracy_B)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from medvista_jax.core.types import AnswerKey, Trajectory
from medvista_jax.learning.rewards.terms import correctness
from medvista_jax.tools.host.call import ToolFailed, TryAgain
from medvista_jax.tools.host.endpoint import Connection, Endpoint

LONGEST_PAUSE_S = 60.0
"""Before a further attempt, whatever the server asks for."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is judged: text that the policy gave for an answer.

    Attributes:
      question: as the policy was asked.
      reference: the right answer.
      answer: bytes between the answer tags, as UTF-8; never empty.
    """

    question: str
    reference: str
    answer: str


Scorer = Callable[[Claim], float | None]
"""0 … 1, or None for no verdict. Called from several threads; what it raises is passed on."""

Fallback = Literal["exact", "raise"] | float
"""What a row gets that nobody has judged: normalised exact match, an error, or this value."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """What came of a batch.

    Attributes:
      accuracy_B: float32.
      judged_B: bool; False where the fallback stands in. Rows without an answer count as judged, wrong.
      metrics: ``judge_unjudged``, share of the answers given that got no verdict; ``judge_answers``, how many answers
        were given; ``judge_seconds``.
    """

    accuracy_B: np.ndarray
    judged_B: np.ndarray
    metrics: Mapping[str, float]


class Unjudged(Exception):
    """No verdict came, and the fallback is "raise"."""


def answers_of(trajectory: Trajectory) -> list[str]:
    """The answers as text, "" where none was given."""
    bytes_BN, length_B = np.asarray(trajectory.answer_BN), np.asarray(trajectory.answer_length_B)
    return [row[:size].tobytes().decode(errors="replace").strip() for row, size in zip(bytes_BN, length_B, strict=True)]


def host_accuracy(
    scorer: Scorer,
    questions: Sequence[str],
    references: Sequence[str],
    trajectory: Trajectory,
    key: AnswerKey,
    fallback: Fallback = "exact",
    workers: int = 8,
) -> Judged:
    """Judges every answer of a batch.

    Args:
      scorer: see :data:`Scorer`.
      questions, references: text, one each of P prompts; B = P · G rows.
      key: for the fallback "exact".
      workers: answers that are judged at a time.

    Raises:
      Unjudged: when a verdict is missing and the fallback is "raise".
      ValueError: when there are not as many questions and references as prompts.
    """
    prompts, answers = key.answer_PN.shape[0], answers_of(trajectory)
    if not len(questions) == len(references) == prompts:
        raise ValueError(f"{len(questions)} questions and {len(references)} references for {prompts} prompts")
    group = len(answers) // prompts
    claims = [Claim(questions[b // group], references[b // group], answer) for b, answer in enumerate(answers)]
    began = time.monotonic()
    once = list(dict.fromkeys(claim for claim in claims if claim.answer))  # a group often agrees
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        verdicts = dict(zip(once, pool.map(scorer, once), strict=True))
    given_B = np.array([bool(claim.answer) for claim in claims], bool)
    score_B = [verdicts[claim] if claim.answer else 0.0 for claim in claims]
    judged_B = np.array([score is not None for score in score_B], bool)
    accuracy_B = np.array([np.nan if score is None else score for score in score_B], np.float32)
    if not judged_B.all():
        if fallback == "raise":
            claim = claims[int(np.argmin(judged_B))]
            raise Unjudged(f"{(~judged_B).sum()} of {len(claims)} answers got no verdict, the first: {claim}")
        spare_B = np.asarray(correctness(trajectory, key)) if fallback == "exact" else np.float32(fallback)
        accuracy_B = np.where(judged_B, accuracy_B, spare_B).astype(np.float32)
    metrics = {
        "judge_answers": float(given_B.sum()),
        "judge_unjudged": float((~judged_B).sum() / max(given_B.sum(), 1)),
        "judge_seconds": time.monotonic() - began,
    }
    return Judged(accuracy_B, judged_B, metrics)


PROMPT = """Does a student's answer to a question agree with the reference answer?
The reference is right. Wording, case and further words do not matter where the meaning is the same.
An answer that hedges between several is wrong.

Question: {question}
Reference answer: {reference}
Student's answer: {answer}

Reply with one line, "Judgement: 1" if they agree or "Judgement: 0" if they do not."""


def binary_verdict(reply: str) -> float | None:
    """1.0 or 0.0 of the last "Judgement: …", or of a reply that is nothing but the digit; None for anything else."""
    found = re.findall(r"judge?ment\W*\b([01])\b(?![.,]\d)", reply, re.IGNORECASE) or re.findall(
        r"^\W*([01])\W*$", reply
    )
    return float(found[-1]) if found else None


class Ledger:
    """Verdicts on disk, one JSON object a line; threads share it. A last line that was cut off is left alone.

    Args:
      path: of the file, made with its folder when the first verdict comes; None to keep nothing but this run's.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._lock = path, threading.Lock()
        self._verdicts: dict[str, float] = {}
        if path is None or not path.exists():
            return
        for line in path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
                self._verdicts[entry["key"]] = float(entry["verdict"])
            except (ValueError, LookupError, TypeError):
                continue  # cut off when a run was killed

    def get(self, key: str) -> float | None:
        with self._lock:
            return self._verdicts.get(key)

    def put(self, key: str, verdict: float, reply: str) -> None:
        line = json.dumps({"key": key, "verdict": verdict, "reply": reply}, ensure_ascii=False)
        with self._lock:
            self._verdicts[key] = verdict
            if self._path is None:
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab+") as file:
                # After a line that was cut off a new one must begin.
                size = file.seek(0, 2)
                file.seek(max(size - 1, 0))
                whole = size == 0 or file.read(1) == b"\n"
                file.write((b"" if whole else b"\n") + line.encode() + b"\n")


class LanguageModelJudge:
    """A :data:`Scorer` that asks a chat endpoint, at temperature 0, and remembers what it said.

    Args:
      endpoint: with ``protocol="chat"``; its ``timeout_s`` is that of one attempt.
      cache: file of verdicts; the key is a hash of model, prompt and the endpoint's seed, so another of them asks
        anew. None: this run's.
      prompt: with the fields of :class:`Claim` in braces.
      verdict: from the reply's text to 0 … 1, or None where it holds none.
      retries: attempts after the first while the server is busy, silent or out of reach, and after a reply without a
        verdict.
      backoff_s: pause before the first of them, doubled with each; a ``Retry-After`` is obeyed.

    Attributes:
      counts: "asked" requests sent, "cached" verdicts found, "failed" answers that got none.
      last_error: of the latest failure, for the log.

    Raises:
      ValueError: for an endpoint of another protocol, or a prompt with other fields.
      ModuleNotFoundError: when ``httpx2`` is not installed.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        cache: Path | None = None,
        prompt: str = PROMPT,
        verdict: Callable[[str], float | None] = binary_verdict,
        retries: int = 2,
        backoff_s: float = 1.0,
    ) -> None:
        if endpoint.protocol != "chat":
            raise ValueError(f"a judge speaks the 'chat' protocol, not {endpoint.protocol!r}")
        try:
            prompt.format(question="", reference="", answer="")
        except (LookupError, ValueError) as error:
            raise ValueError(f"the prompt may have {{question}}, {{reference}} and {{answer}}: {error!r}") from None
        self._connection, self._ledger = Connection(endpoint), Ledger(cache)
        self._prompt, self._verdict = prompt, verdict
        self._retries, self._backoff_s = retries, backoff_s
        self._lock = threading.Lock()
        self.counts = {"asked": 0, "cached": 0, "failed": 0}
        self.last_error = ""

    def __call__(self, claim: Claim) -> float | None:
        """The verdict on one claim; None when no attempt brought one."""
        prompt = self._prompt.format(**dataclasses.asdict(claim))
        endpoint = self._connection.endpoint
        named = [endpoint.model, prompt] if endpoint.seed is None else [endpoint.model, prompt, endpoint.seed]
        key = hashlib.sha256(json.dumps(named).encode()).hexdigest()
        known = self._ledger.get(key)
        if known is not None:
            self._count("cached")
            return known
        for attempt in range(self._retries + 1):
            pause_s = self._backoff_s * 2**attempt
            try:
                self._count("asked")
                reply = self._connection.ask(None, {}, prompt)
                verdict = self._verdict(reply)
                if verdict is not None:
                    self._ledger.put(key, verdict, reply)
                    return verdict
                self.last_error = f"no verdict in the reply {reply[:200]!r}"
            except TryAgain as error:
                self.last_error, pause_s = str(error), max(pause_s, error.after_s or 0.0)
            except ToolFailed as error:
                self.last_error = str(error)
                break  # the same request would fail the same way
            if attempt < self._retries:
                time.sleep(min(pause_s, LONGEST_PAUSE_S))
        self._count("failed")
        return None

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1
