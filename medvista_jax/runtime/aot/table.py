"""Measured programs as lines to read and as the README's table."""

from __future__ import annotations

import datetime
from typing import Any

from medvista_jax.runtime.aot.measure import Measured
from medvista_jax.runtime.aot.plans import GIB


def lines(m: Measured) -> list[str]:
    """What one program takes, a chip."""
    share = f", {m.cache / GIB:.2f} of it the KV cache" if m.cache else ""
    flops = f"{m.flops / 1e12:.2f} TFLOP"
    if m.model_flops:
        flops += f", {m.flops / m.model_flops:.2f} times the model's"
    if m.open_loops:
        flops += f" ({m.open_loops} loops of unknown length counted once)"
    moved = ", ".join(
        f"{kind} {count:.0f} x, {size / GIB:.2f} GiB" for kind, (count, size) in sorted(m.collectives.items())
    )
    seconds = f", {m.optimal_seconds:.3f} s at best" if m.optimal_seconds is not None else ""
    return [
        f"  {m.program}: peak {m.peak / GIB:.2f} of {m.hbm / GIB:.0f} GiB a chip: "
        f"{'fits' if m.fits else 'DOES NOT FIT'}; "
        f"arguments {m.arguments / GIB:.2f}, temporaries {m.temporaries / GIB:.2f}{share}",
        f"    {flops}; {m.bytes_accessed / GIB:.1f} GiB accessed (bodies of loops once){seconds}; "
        f"splash kernels {m.splash}",
        f"    collectives: {moved or 'none'}",
        f"    traced and lowered in {m.lower_seconds:.0f} s, compiled in {m.compile_seconds:.0f} s",
    ]


HEAD = (
    "plan",
    "mesh (data, fsdp, tensor)",
    "step: peak / set aside, GiB a chip",
    "of",
    "rollout beyond its cache, of a cache",
    "update, TFLOP a chip",
    "times the model's",
    "collectives of the update, GiB a chip",
    "step compiled in",
)


def table(results: dict[str, Any], date: datetime.date) -> str:
    """Markdown: a row a plan; a dash for a program that was not compiled."""
    rows = [HEAD, ("---", "---", *("--:",) * (len(HEAD) - 2))]
    for name, result in results.items():
        step, rollout, update = (result["programs"].get(program) for program in ("step", "rollout", "update"))
        cells = [name, ", ".join(map(str, result["plan"]["mesh"])), *["–"] * (len(HEAD) - 2)]
        if step:
            cells[2] = f"{step['peak'] / GIB:.1f} / {(step['arguments'] + step['temporaries']) / GIB:.1f}"
            cells[3] = f"{step['hbm'] / GIB:.0f}"
            cells[8] = f"{step['lower_seconds'] + step['compile_seconds']:.0f} s"
        if rollout:
            cells[4] = f"{(rollout['temporaries'] - rollout['cache']) / rollout['cache']:.2f}"
        if update:
            cells[5] = f"{update['flops'] / 1e12:.0f}"
            cells[6] = f"{update['flops'] / update['model_flops']:.2f}"
            cells[7] = f"{sum(size for _, size in update['collectives'].values()) / GIB:.0f}"
        rows.append(tuple(cells))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    about = [f"jax {next(iter(results.values()))['jax']}, {date.isoformat()}", *_made(results)]
    return "\n".join([*lines, "", "; ".join(about) + "."])


def _made(results: dict[str, Any]) -> list[str]:
    """Of which commits and days the programs are."""
    made: dict[str, list[str]] = {}
    for result in results.values():
        for name, program in result["programs"].items():
            of = f"{program['commit']} ({program['date']})"
            made[name] = made.get(name, []) + [of] * (of not in made.get(name, []))
    return [f"{name} of {', '.join(commits)}" for name, commits in made.items()]
