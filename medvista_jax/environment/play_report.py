"""What came of a run of :mod:`medvista_jax.environment.play`, in numbers that name their protocol."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any


def summarise(records: Sequence[Mapping[str, Any]], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Counts over finished episodes.

    ``accuracy`` and ``ci95`` (Wilson) are fractions, and so are the others' means; ``faults`` are counts by kind.
    """
    from medvista_jax.evaluation.statistics import wilson_interval  # late: evaluation stands above the gym

    n, correct = len(records), sum(record["correct"] for record in records)
    usage: collections.Counter = collections.Counter()
    for record in records:
        usage.update(record.get("usage", {}))
    calls = [call for record in records for call in record.get("calls", ())]
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n if n else None,
        "ci95": wilson_interval(correct, n),
        "truncated": sum(bool(record.get("truncated")) for record in records),
        "calls_per_question": len(calls) / n if n else None,
        "calls": dict(collections.Counter(call["tool"] or "unknown" for call in calls).most_common()),
        "faults": dict(collections.Counter(f for record in records for f in record.get("faults", ())).most_common()),
        "tokens": {key: usage[key] for key in ("prompt_tokens", "completion_tokens") if key in usage},
        "seconds_per_question": sum(record.get("seconds", 0.0) for record in records) / n if n else None,
        "protocol": protocol(setting, n),
    }


def protocol(setting: Mapping[str, Any], n: int) -> str:
    """The line without which a number means nothing."""
    tools, source = setting["tools"], setting["questions"]
    if source == "atlas":
        source = "packaged atlas (targets of zoom and detail items are implanted)"
    parts = [
        f"{source}, split {setting['split'] or 'all'}, n {n}",
        "exact match in normal form",
        f"tools on ({', '.join(tools)})" if tools else "tools off",
        f"{setting['turns']} turns, images {setting['view_size']} x {setting['view_size']}",
        f"model {setting['model']}, dialect {setting['dialect']}",
        ", ".join(f"{key} {value}" for key, value in setting["body"].items()) or "the server's sampling",
    ]
    return "; ".join(parts)


def as_text(summary: Mapping[str, Any], failed: Sequence[tuple[str, str]] = ()) -> str:
    """The table that a person reads."""
    n = summary["n"]
    if not n:
        return "no episode has finished"
    low, high = (100 * bound for bound in summary["ci95"])
    counts = lambda named: ", ".join(f"{name} {count}" for name, count in named.items()) or "none"  # noqa: E731
    rows = [
        (
            "accuracy",
            f"{100 * summary['accuracy']:.1f} % ({summary['correct']} of {n}; 95 % Wilson {low:.1f} to {high:.1f} %)",
        ),
        ("without an answer", str(summary["truncated"])),
        ("calls per question", f"{summary['calls_per_question']:.2f}"),
        ("calls by tool", counts(summary["calls"])),
        ("faults by kind", counts(summary["faults"])),
        ("seconds per question", f"{summary['seconds_per_question']:.2f}"),
    ]
    if summary["tokens"]:
        rows.append(("tokens", counts(summary["tokens"])))
    if failed:
        rows.append(("failed, not counted", str(len(failed))))
    rows.append(("protocol", summary["protocol"]))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
