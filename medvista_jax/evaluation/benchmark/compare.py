"""Two runs on the same questions, or several seeds of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvista_jax.evaluation.benchmark.lines import BadRun, lines_path, read_json, read_lines, result_path
from medvista_jax.evaluation.statistics import mcnemar, mean_over_seeds, paired_bootstrap


def results_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Results of a run by set.

    Raises:
      BadRun: there is none.
    """
    ending = result_path(folder, "").name
    found = {path.name.removesuffix(ending): read_json(path) for path in sorted(folder.glob(f"*{ending}"))}
    if not found:
        raise BadRun(
            f"{folder}: has no results; let python -m medvista_jax.evaluation.benchmark --out {folder} end first"
        )
    return found


def _same(a: dict[str, Any], b: dict[str, Any], keys: Sequence[str], name: str, folders: Sequence[Path]) -> None:
    for key in keys:
        if a.get(key) != b.get(key):
            raise BadRun(
                f"{name}: {folders[0]} has {key} {a.get(key)!r} and {folders[1]} {b.get(key)!r}; these do not compare"
            )


def _shared(folders: Sequence[Path], keys: Sequence[str]) -> tuple[list[str], list[dict[str, dict[str, Any]]]]:
    """Sets that all runs have, and the runs' results; refuses those that differ in what a comparison needs alike."""
    runs = [results_in(folder) for folder in folders]
    names = [name for name in runs[0] if all(name in run for run in runs)]
    if not names:
        raise BadRun(f"{' and '.join(map(str, folders))} have no set in common")
    for name in names:
        for folder, run in zip(folders[1:], runs[1:], strict=True):
            _same(runs[0][name], run[name], keys, name, (folders[0], folder))
    return names, runs


def paired(folder_a: Path, folder_b: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether each question is right in A and in B: bool ``[N]`` twice.

    Raises:
      BadRun: the two have answered different questions.
    """
    a, b = (read_lines(lines_path(folder, name)) for folder in (folder_a, folder_b))
    if a.keys() != b.keys():
        odd = sorted(a.keys() ^ b.keys())
        raise BadRun(f"{name}: {odd[0]!r} and {len(odd) - 1} more are in one run only; only the same questions compare")
    return np.array([a[key]["right"] for key in a], bool), np.array([b[key]["right"] for key in a], bool)


def compare(folder_a: Path, folder_b: Path, resamples: int = 10_000) -> dict[str, Any]:
    """A against B on every set that both have, and on all of them together.

    Returns:
      ``"sets"``: name -> n, accuracies, difference with its bootstrap interval, McNemar's exact p; ``"protocol_line"``.

    Raises:
      BadRun: other protocols, scorers, judges or questions.
    """
    names, (a, b) = _shared((folder_a, folder_b), ("protocol", "scorer", "split", "judge"))
    vectors = {name: paired(folder_a, folder_b, name) for name in names}
    if len(names) > 1:
        vectors["all"] = tuple(np.concatenate([vectors[name][side] for name in names]) for side in (0, 1))
    rows = {}
    for name, (a_N, b_N) in vectors.items():
        difference, test = paired_bootstrap(a_N, b_N, resamples), mcnemar(a_N, b_N)
        rows[name] = {
            "n": len(a_N),
            "a": float(a_N.mean()),
            "b": float(b_N.mean()),
            "difference": difference.mean,
            "ci95": [difference.low, difference.high],
            "a_only": test.a_only,
            "b_only": test.b_only,
            "p": test.p,
            "test": f"McNemar, {test.method}",
        }
    first = a[names[0]]
    policies = {"a": _policy(first), "b": _policy(b[names[0]])}
    return {"sets": rows, **policies, "scorer": first["scorer"], "protocol_line": first["protocol_line"]}


def _policy(result: dict[str, Any]) -> str:
    """What answered, with which tools, and where its settings are not the protocol's."""
    changed = "".join(f", {key} {change['here']}" for key, change in result["changed"].items() if key != "seed")
    return f"{result['policy']}, tools {', '.join(result['tools'] or ['off'])}{changed}"


def comparison(folder_a: Path, folder_b: Path) -> str:
    """:func:`compare` for people."""
    found = compare(folder_a, folder_b)
    lines = [f"A: {found['a']}", f"B: {found['b']}", f"scorer {found['scorer']}", found["protocol_line"], ""]
    head = f"{'set':<15}{'n':>6}{'A %':>8}{'B %':>8}{'A - B':>8}  {'95 % (paired bootstrap)':<25}"
    lines.append(f"{head}{'A only':>7}{'B only':>7}  McNemar p (exact)")
    for name, row in found["sets"].items():
        low, high = (100 * value for value in row["ci95"])
        lines.append(
            f"{name:<15}{row['n']:>6}{100 * row['a']:>8.2f}{100 * row['b']:>8.2f}{100 * row['difference']:>+8.2f}  "
            f"{f'[{low:+.2f}, {high:+.2f}]':<25}{row['a_only']:>7}{row['b_only']:>7}  {row['p']:.4g}"
        )
    return "\n".join(lines)


def seeds(folders: Sequence[Path]) -> str:
    """Mean over runs that differ in their seed, of sampling or (other checkpoints) of training, for people.

    Raises:
      BadRun: they differ in more, or two are the same checkpoint with the same seed.
    """
    names, runs = _shared(folders, ("protocol", "scorer", "split", "judge", "tools", "n", "temperature"))
    lines = [f"{len(folders)} runs; scorer {runs[0][names[0]]['scorer']}", runs[0][names[0]]["protocol_line"]]
    for number, run in enumerate(runs, 1):
        lines.append(f"  {number}: {_policy(run[names[0]])}, seed {run[names[0]]['seeds'][0]}")
    for name in names:
        used = [(run[name]["policy"], run[name]["seeds"][0]) for run in runs]
        if len(set(used)) < len(used):
            raise BadRun(f"{name}: two runs are of one checkpoint and one seed; a mean over seeds needs different ones")
        found = mean_over_seeds([run[name]["accuracy"] for run in runs])
        interval = "" if found.low is None else f", 95 % of the mean [{100 * found.low:.2f}, {100 * found.high:.2f}]"
        lines.append(f"{name:<15}n {runs[0][name]['n']}: {100 * found.mean:.2f} %{interval}")
    return "\n".join(lines)
