"""The numbers of a set, with everything that a reader must know to compare them."""

from __future__ import annotations

import datetime
import importlib.metadata
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medvista_jax
from medvista_jax.evaluation.benchmark.policies import Policy
from medvista_jax.evaluation.judge import Judge
from medvista_jax.evaluation.protocols import Protocol, Selection
from medvista_jax.evaluation.statistics import wilson_interval

if TYPE_CHECKING:
    from medvista_jax.evaluation.benchmark.run import Settings

PACKAGES = ("medvista_jax", "jax", "jaxlib", "flax", "numpy", "transformers", "tensorflow-datasets", "array-record")
"""Whose versions a result has."""


def counted(lines: Sequence[dict[str, Any]], key: str | None = None) -> dict[str, Any]:
    """Accuracy with its interval over some lines.

    Args:
      key: "fixed" or "strict" for that scorer's verdicts; None for those that the run was set to.
    """
    verdicts = [line if key is None else line[key] for line in lines]
    right = sum(bool(verdict["right"]) for verdict in verdicts)
    low, high = wilson_interval(right, len(lines))
    out = {"n": len(lines), "right": right, "accuracy": right / len(lines) if lines else None, "ci95": [low, high]}
    if key == "strict":
        return out | {"faults": sum(bool(verdict["fault"]) for verdict in verdicts)}
    return out | {"unparsable": sum(bool(verdict["unparsable"]) for verdict in verdicts)}


def result_of(
    protocol: Protocol,
    name: str,
    selection: Selection,
    policy: Policy,
    settings: Settings,
    judge: Judge | None,
    lines: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The result of a set: ``accuracy`` and what it rests on; ``by_kind``, ``fixed``, ``strict``; where it comes from.

    ``unparsable`` counts replies that could not be read, all of which are wrong; with a judge also the judge's own.
    """
    opened = [line for line in lines if line["kind"] == "open"]
    closed = [line for line in lines if line["kind"] != "open"]
    rule = selection.rule
    changed = {
        key: {"here": getattr(settings, key), "protocol": getattr(protocol, key)}
        for key in ("max_new_tokens", "temperature", "seed")
        if getattr(settings, key) != getattr(protocol, key)
    }
    return {
        "data_set": rule.title,
        "set": name,
        "split": selection.split,
        "subset": rule.subset,
        "size": selection.size,
        "miniature": selection.miniature,
        "protocol": protocol.name,
        "protocol_line": protocol.line(),
        "changed": changed,
        "notes": [note for note in (rule.note, *protocol.notes) if note],
        "scorer": scorer_name(rule.strict, settings.scorer, judge),
        "policy": policy.name,
        "tools": list(policy.tools) or False,
        "seeds": [settings.seed],
        "temperature": settings.temperature,
        "max_new_tokens": settings.max_new_tokens,
        "settings": dict(settings.more),
        **counted(lines),
        "by_kind": {"open": counted(opened), "closed": counted(closed)},
        "fixed": counted(lines, "fixed") | {f"open_{key}": _mean(opened, key) for key in ("f1", "recall")},
        "strict": {"scorers": list(rule.strict), **counted(lines, "strict")},
        "without_options": sum(
            selection[number].options is None and line["kind"] == "closed" for number, line in enumerate(lines)
        ),
        "calls": sum(line.get("calls", 0) for line in lines),
        "judge": judge.about() if judge else None,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
    }


def _mean(lines: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [line["fixed"][key] for line in lines if key in line["fixed"]]
    return sum(values) / len(values) if values else None


def scorer_name(strict: Sequence[str], scorer: str, judge: Judge | None) -> str:
    """The scorer in words."""
    name = "fixed" if scorer == "fixed" else f"strict ({', '.join(strict)})"
    return f"{name}; open questions by the judge {judge.model}" if judge else name


def commit() -> str:
    """Of the code that runs: a hash, "+changes" behind it where files differ; "" outside of a repository."""
    folder = Path(medvista_jax.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    found = git("rev-parse", "HEAD")
    # An installed package may lie inside of somebody else's repository, which does not track it.
    if not found or not git("ls-files", "--", "__init__.py"):
        return ""
    return f"{found}+changes" if git("status", "--porcelain", "--untracked-files=no") else found


def versions() -> dict[str, str]:
    """Of the packages that matter, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def described(result: dict[str, Any]) -> str:
    """A result for people: the number, its interval, and the protocol's line."""
    percent = lambda value: f"{100 * value:.2f}"  # noqa: E731
    low, high = result["ci95"]
    # No accuracy of no question.
    number = "-" if result["accuracy"] is None else percent(result["accuracy"])
    tools = f"tools {', '.join(result['tools'])}" if result["tools"] else "tools off"
    lines = [
        f"{result['data_set']} ({result['split']}; {result['subset']}): {number} % [{percent(low)}, {percent(high)}], "
        f"{result['right']} of {result['n']}, {result['unparsable']} unparsable; scorer {result['scorer']}; {tools}; "
        f"seed {result['seeds'][0]}",
        f"  {result['protocol_line']}",
    ]
    if result["miniature"]:
        lines.append(f"  a miniature: {result['size']} questions of the protocol; no number to publish")
    lines += [
        f"  {key} is {change['here']}, the protocol's {change['protocol']}" for key, change in result["changed"].items()
    ]
    strict = result["strict"]
    if strict["accuracy"] is not None:
        names, faults = ", ".join(strict["scorers"]), strict["faults"]
        lines.append(
            f"  upstream's scorer ({names}): {percent(strict['accuracy'])} %; it fails or would draw {faults} times"
        )
    return "\n".join(lines)
