"""One set of a protocol: ask what has not been asked yet, score, append; then the numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvista_jax.evaluation.benchmark.lines import (
    BadRun,
    appending,
    lines_path,
    read_json,
    read_lines,
    result_path,
    settings_path,
    write_json,
)
from medvista_jax.evaluation.benchmark.policies import Policy, Reply
from medvista_jax.evaluation.benchmark.results import result_of
from medvista_jax.evaluation.judge import Judge, Verdict
from medvista_jax.evaluation.protocols import Case, Protocol, Selection, fixed
from medvista_jax.evaluation.scorers.replies import final_answer
from medvista_jax.runtime.interrupt import Interrupts
from medvista_jax.runtime.progress import Progress


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is set to, beyond its protocol.

    Attributes:
      max_new_tokens, temperature: as used; a result says where they are not the protocol's.
      seed: of sampling and of the judge.
      scorer: "fixed" or "strict": whose verdict is the result's accuracy. Both are computed.
      more: of the policy (view, turns …), for the result.
    """

    max_new_tokens: int
    temperature: float
    seed: int
    scorer: str = "fixed"
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, protocol: Protocol, **changes: Any) -> Settings:
        """The protocol's own, with changes."""
        own = {name: getattr(protocol, name) for name in ("max_new_tokens", "temperature", "seed")}
        return cls(**(own | changes))


def run_set(
    protocol: Protocol,
    name: str,
    selection: Selection,
    policy: Policy,
    out: Path,
    settings: Settings,
    *,
    judge: Judge | None = None,
    resume: bool = False,
    at_once: int = 16,
    progress: Progress,
    interrupts: Interrupts,
) -> dict[str, Any]:
    """Asks every question of a set that has no line yet, ``at_once`` at a time, and counts.

    Args:
      protocol, name: whose set.
      selection: its questions.
      out: folder of the run; see :mod:`lines` for the files.
      judge: for open questions.
      resume: go on with the lines that are there.

    Returns:
      The result, see :func:`result_of`; it lies in ``out`` as well.

    Raises:
      BadRun: lines are there already and ``resume`` is off, or they were made with other settings; the policy or the
        judge cannot go on. What was answered is kept.
      Interrupted: asked to stop, between two batches.
    """
    if settings.scorer not in ("fixed", "strict"):
        raise BadRun(f"scorer {settings.scorer!r} is not fixed or strict")
    if not len(selection):
        raise BadRun(f"{name}: not one of the questions there is {selection.rule.subset}; there is nothing to ask")
    path = lines_path(out, name)
    _prepare(path, out, name, identity(protocol, policy, settings, judge, selection), resume)
    there = read_lines(path) if path.exists() else {}
    if strangers := sorted(there.keys() - set(selection.ids)):
        raise BadRun(f"{path}: has an answer to {strangers[0]!r}, which is none of the questions; name another --out")
    left = [number for number, key in enumerate(selection.ids) if key not in there]
    with appending(path) as file, progress.stage(name, total=len(selection), done=len(there)) as bar:
        for first in range(0, len(left), at_once):
            cases = [selection[number] for number in left[first : first + at_once]]
            entries = answered(cases, policy, selection, settings, judge)
            file.write(entries)
            there |= {entry["id"]: entry for entry in entries}
            bar.advance(len(entries), right=f"{sum(entry['right'] for entry in there.values()) / len(there):.1%}")
            if interrupts.requested and first + at_once < len(left):
                raise interrupts.stopped(
                    f"stopped; {len(there)} of {len(selection)} answers are in {path}; --resume goes on"
                )
    result = result_of(protocol, name, selection, policy, settings, judge, [there[key] for key in selection.ids])
    write_json(result_path(out, name), result)
    return result


def identity(
    protocol: Protocol, policy: Policy, settings: Settings, judge: Judge | None, selection: Selection
) -> dict[str, Any]:
    """What has to be the same for a run to go on."""
    return {
        "protocol": protocol.name,
        "set": selection.rule.name,
        "miniature": selection.miniature,
        "policy": policy.name,
        "tools": list(policy.tools),
        "judge": judge.about() if judge else None,
        **{key: value for key, value in dataclasses.asdict(settings).items() if key != "more"},
        **{key: value for key, value in settings.more.items()},
    }


def _prepare(path: Path, out: Path, name: str, mine: dict[str, Any], resume: bool) -> None:
    before = settings_path(out, name)
    if path.exists() and not resume:
        raise BadRun(f"{path} is there: go on with --resume, or name another --out")
    if path.exists() and before.exists():
        was = read_json(before)
        for key in [*mine, *(was.keys() - mine.keys())]:
            if was.get(key) != mine.get(key):
                raise BadRun(f"{path} was made with {key} {was.get(key)!r}, not {mine.get(key)!r}; name another --out")
    write_json(before, mine)


def answered(
    cases: Sequence[Case], policy: Policy, selection: Selection, settings: Settings, judge: Judge | None
) -> list[dict[str, Any]]:
    """The lines of some questions.

    Raises:
      BadRun: the policy gave another number of replies, or the judge cannot be reached.
    """
    said = list(policy.reply([case.ask for case in cases]))
    if len(said) != len(cases):
        raise BadRun(f"{policy.name}: gave {len(said)} replies to {len(cases)} questions")
    replies = [one if isinstance(one, Reply) else Reply(str(one)) for one in said]
    verdicts: dict[int, Verdict] = {}
    if judge is not None:
        opened = [number for number, case in enumerate(cases) if case.scored.kind == "open"]
        claims = [
            (cases[number].item.question, cases[number].answer, final_answer(replies[number].text)) for number in opened
        ]
        verdicts = dict(zip(opened, judge.verdicts(claims), strict=True))
    return [
        line(case, reply, selection, settings.scorer, verdicts.get(number))
        for number, (case, reply) in enumerate(zip(cases, replies, strict=True))
    ]


def line(case: Case, reply: Reply, selection: Selection, scorer: str, verdict: Verdict | None) -> dict[str, Any]:
    """One question: what was said and what it is worth.

    ``right`` and ``unparsable`` are those of the scorer chosen, or of the judge where it was asked; ``fixed``,
    ``strict`` and ``judge`` have all that was found.
    """
    score, strict = fixed(case, reply.text), selection.rule.graded(case, reply.text)
    entry: dict[str, Any] = {"set": case.ask.set, "id": case.ask.id, "kind": case.scored.kind, "reply": reply.text}
    if scorer == "fixed":
        entry |= {"parse": score.parsed, "right": score.correct, "unparsable": score.unparsable}
    else:
        entry |= {"parse": strict.parsed, "right": strict.right, "unparsable": bool(strict.fault)}
    if verdict is not None:
        entry |= {"right": verdict.right, "unparsable": verdict.unparsable}
    entry["fixed"] = {"right": score.correct, "unparsable": score.unparsable}
    if score.f1 is not None:
        entry["fixed"] |= {"f1": score.f1, "recall": score.recall}
    entry["strict"] = {"right": strict.right, "parse": strict.parsed, "fault": strict.fault}
    entry["judge"] = None if verdict is None else dataclasses.asdict(verdict)
    if reply.turns:
        entry |= {"turns": list(reply.turns), "calls": reply.calls}
    return entry
