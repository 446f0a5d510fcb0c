"""A language model behind an OpenAI-compatible endpoint as the judge of open questions.

It is asked at temperature 0 with a seed, and everything it says is kept on disk by model, prompt and seed. A reply
without a verdict makes the answer wrong, and counts as unparsable; nothing is ever drawn. A server that cannot be
reached ends the run: what was judged is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from medvista_jax.learning.rewards.judge import PROMPT, Claim, LanguageModelJudge, binary_verdict
from medvista_jax.tools.host.endpoint import Endpoint

_NO_VERDICT = -1.0  # kept in the cache like any other verdict: the same question would get the same reply


class JudgeFailed(Exception):
    """The judge could not be asked. One line: the address, what happened, how to go on."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """``right``, and whether the judge's own reply could not be read. An answer of nothing is wrong without asking."""

    right: bool
    unparsable: bool = False


def _readable(reply: str) -> float:
    verdict = binary_verdict(reply)
    return _NO_VERDICT if verdict is None else verdict


class Judge:
    """Asks a chat endpoint whether an answer agrees with the reference.

    Args:
      url: of the endpoint, up to and with ``/v1``.
      model: its name there.
      cache: file of verdicts, of this judge alone: replies without one are kept in it too. None: this run's.
      seed: sent with every request.
      key_variable: environment variable that holds the key; None for none.
      timeout_s: of one attempt.
      retries, backoff_s: see :class:`LanguageModelJudge`.
      workers: requests at a time.

    Raises:
      ValueError: the address is none.
      ModuleNotFoundError: ``httpx2`` is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        cache: Path | None = None,
        seed: int = 0,
        key_variable: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 3,
        backoff_s: float = 1.0,
        workers: int = 8,
    ) -> None:
        endpoint = Endpoint(url, "chat", model, key_variable, timeout_s, seed=seed)
        self._ask = LanguageModelJudge(endpoint, cache, verdict=_readable, retries=retries, backoff_s=backoff_s)
        self.url, self.model, self.seed, self._workers = endpoint.url, model, seed, workers

    def about(self) -> dict[str, Any]:
        """What a number must say of its judge."""
        return {"url": self.url, "model": self.model, "seed": self.seed, "temperature": 0, "prompt": PROMPT}

    @property
    def counts(self) -> dict[str, int]:
        """ "asked" requests, "cached" verdicts, "failed" answers without one."""
        return dict(self._ask.counts)

    def verdicts(self, claims: Sequence[tuple[str, str, str]]) -> list[Verdict]:
        """Judges answers.

        Args:
          claims: question, reference, answer.

        Raises:
          JudgeFailed: the server was not to be reached, refused, or timed out, after all retries.
        """
        with ThreadPoolExecutor(max_workers=max(1, self._workers)) as pool:
            found = list(pool.map(self._one, claims))
        if any(verdict is None for verdict in found):
            missing = sum(verdict is None for verdict in found)
            raise JudgeFailed(
                f"the judge gave no verdict on {missing} of {len(claims)} answers: {self._ask.last_error}; "
                "see to the server and go on with --resume"
            )
        return [verdict for verdict in found if verdict is not None]

    def _one(self, claim: tuple[str, str, str]) -> Verdict | None:
        question, reference, answer = claim
        if not answer.strip():
            return Verdict(False, unparsable=True)
        score = self._ask(Claim(question, reference, answer))
        if score is None:
            return None
        return Verdict(False, unparsable=True) if score == _NO_VERDICT else Verdict(score > 0.5)
