"""Runs a policy through the benchmarks of a protocol, or compares runs.

    python -m medvista_jax.evaluation.benchmark --protocol medvlthinker --sets vqa_rad,slake --model FOLDER --out DIR
    python -m medvista_jax.evaluation.benchmark … --tools zoom_in,flip --resume      # with tools; go on after Ctrl-C
    python -m medvista_jax.evaluation.benchmark … --replies FILE                     # score replies of any model
    python -m medvista_jax.evaluation.benchmark --compare DIR_A DIR_B                # the same questions, paired
    python -m medvista_jax.evaluation.benchmark --mean DIR DIR DIR                   # over seeds

Benchmarks are prepared by ``python -m medvista_jax.data.benchmarks prepare``. Exit code 0 when all went well, 2 when
not, 130 or 143 when stopped: what was answered is kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvista_jax.data.files.image import BadFile
from medvista_jax.evaluation.benchmark.compare import comparison, seeds
from medvista_jax.evaluation.benchmark.lines import BadRun
from medvista_jax.evaluation.benchmark.policies import Policy, RecordedPolicy
from medvista_jax.evaluation.benchmark.results import described
from medvista_jax.evaluation.benchmark.run import Settings, run_set
from medvista_jax.evaluation.judge import Judge, JudgeFailed
from medvista_jax.evaluation.protocols import PROTOCOLS, Protocol, Selection, protocol_of
from medvista_jax.models.tensor_files import BadCheckpoint
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.runtime.interrupt import Interrupted, Interrupts
from medvista_jax.runtime.mesh import MeshError, make_mesh, parse_mesh
from medvista_jax.runtime.progress import Progress

TOOLS = "zoom_in,adjust_window"
"""What ``--tools`` alone offers."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        prog="python -m medvista_jax.evaluation.benchmark", description=__doc__.split("\n")[0]
    )
    add = out.add_argument
    add("--protocol", help=f"{' or '.join(PROTOCOLS)}; see python -m medvista_jax.evaluation.protocols --list")
    add("--sets", help="names with commas between (default: all of the protocol)")
    add("--data", type=Path, help="folder of prepared benchmarks (default: where prepare puts them)")
    add(
        "--subset", action="store_true", help="miniatures, prepared with --subset: counts are not those of the protocol"
    )
    add("--model", type=Path, help="hub folder: weights, tokenizer, chat template")
    add("--adapters", type=Path, help="folder of LoRA adapters for --model")
    add("--replies", type=Path, help='JSON lines {"id", "reply"}, and "set" where ids clash')
    add("--tools", nargs="?", const=TOOLS, default="", help=f"names with commas between (alone: {TOOLS})")
    add("--turns", type=int, default=4, help="with --tools, the last of which must answer (default 4)")
    add("--out", type=Path, help="folder for answers and results")
    add("--resume", action="store_true", help="go on with the answers that are there")
    add("--scorer", choices=("fixed", "strict"), default="fixed", help="whose verdict the accuracy is (default fixed)")
    add("--seed", type=int, help="(default: the protocol's)")
    add("--temperature", type=float, help="(default: the protocol's)")
    add("--max-new-tokens", type=int, help="(default: the protocol's)")
    add("--view", type=int, default=0, help="pixels a side of every image (default: the family's choice)")
    add("--mesh", help="devices of this host that share the work, such as data=2,tensor=4 (default: one device)")
    add("--at-once", type=int, default=8, help="questions in a batch (default 8)")
    add("--judge", metavar="URL", help="OpenAI-compatible endpoint, up to /v1, that judges open questions")
    add("--judge-model", help="its name there")
    add("--judge-key", metavar="VARIABLE", help="environment variable that holds the key")
    add("--judge-timeout", type=float, default=60.0, help="seconds of one attempt (default 60)")
    add("--compare", nargs=2, type=Path, metavar=("DIR_A", "DIR_B"), help="paired bootstrap and McNemar's test")
    add("--mean", nargs="+", type=Path, metavar="DIR", help="mean over runs with other seeds")
    return out


def _settings(chosen: argparse.Namespace, protocol: Protocol, more: dict[str, Any]) -> Settings:
    named = {key: getattr(chosen, key) for key in ("seed", "temperature", "max_new_tokens")}
    return Settings.of(
        protocol, **{key: value for key, value in named.items() if value is not None}, scorer=chosen.scorer, more=more
    )


def _policy(chosen: argparse.Namespace, protocol: Protocol) -> tuple[Policy, dict[str, Any]]:
    """The policy, and what a result says of it."""
    tools = tuple(name.strip() for name in chosen.tools.split(",") if name.strip())
    if chosen.replies is not None:
        return RecordedPolicy(chosen.replies, tools), {}
    from medvista_jax.evaluation.benchmark.hub_policy import Generation, HubPolicy  # late: transformers takes seconds

    enable_compile_cache()
    settings = _settings(chosen, protocol, {})
    generation = Generation(
        settings.max_new_tokens, settings.temperature, protocol.top_p, settings.seed, chosen.turns, chosen.at_once
    )
    mesh = make_mesh(parse_mesh(chosen.mesh)) if chosen.mesh else None
    policy = HubPolicy(chosen.model, generation, tools, chosen.adapters, chosen.view, mesh)
    return policy, policy.about()


def _opened(chosen: argparse.Namespace, protocol: Protocol) -> tuple[Policy, dict[str, Any]]:
    """:func:`_policy`; what is wrong with its arguments is a user's error."""
    try:
        return _policy(chosen, protocol)
    except (ValueError, MeshError, ModuleNotFoundError) as error:
        raise BadRun(str(error)) from error


def _judge(chosen: argparse.Namespace, seed: int) -> Judge | None:
    if not chosen.judge:
        return None
    if not chosen.judge_model:
        raise BadRun("--judge needs --judge-model, the model's name there")
    if chosen.judge_key and not os.environ.get(chosen.judge_key):
        raise BadRun(f"--judge-key: the environment variable {chosen.judge_key} is not set")
    cache = chosen.out / "judge.jsonl"
    try:
        return Judge(chosen.judge, chosen.judge_model, cache, seed, chosen.judge_key, chosen.judge_timeout)
    except (ValueError, ModuleNotFoundError) as error:
        raise BadRun(f"--judge: {error}") from None


def _check(chosen: argparse.Namespace) -> None:
    missing = [f"--{name}" for name in ("protocol", "out") if getattr(chosen, name) is None]
    if missing:
        raise BadRun(f"{' and '.join(missing)} must be named (or --compare, or --mean)")
    if (chosen.model is None) == (chosen.replies is None):
        raise BadRun("name what answers: --model FOLDER or --replies FILE")
    if chosen.adapters is not None and chosen.model is None:
        raise BadRun("--adapters are for a --model")


def _benchmarks(chosen: argparse.Namespace) -> None:
    _check(chosen)
    try:
        protocol = protocol_of(chosen.protocol)
        rules = [protocol.rule(name.strip()) for name in (chosen.sets or ",".join(protocol.sets)).split(",")]
    except KeyError as error:
        raise BadRun(error.args[0]) from None
    # Everything is there before the model is loaded.
    selections = {rule.name: Selection(rule, chosen.data, chosen.subset) for rule in rules}
    for name, selection in selections.items():
        if selection.miniature:
            print(f"{name}: a miniature, {selection.size} questions of the protocol", file=sys.stderr)
    policy, more = _opened(chosen, protocol)
    settings = _settings(chosen, protocol, more)
    judge = _judge(chosen, settings.seed)
    with Interrupts() as interrupts, Progress() as progress:
        for name, selection in selections.items():
            result = run_set(
                protocol,
                name,
                selection,
                policy,
                chosen.out,
                settings,
                judge=judge,
                resume=chosen.resume,
                at_once=chosen.at_once,
                progress=progress,
                interrupts=interrupts,
            )
            print(described(result), flush=True)


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see the module's docstring for the exit codes."""
    chosen = parser().parse_args(arguments)
    try:
        if chosen.compare:
            print(comparison(*chosen.compare))
        elif chosen.mean:
            print(seeds(chosen.mean))
        else:
            _benchmarks(chosen)
    except Interrupted as stop:
        print(f"medvista_jax.evaluation.benchmark: {stop.args[0]}", file=sys.stderr)
        return stop.exit_code
    except (BadRun, BadFile, BadCheckpoint, JudgeFailed, OSError) as error:
        print(f"medvista_jax.evaluation.benchmark: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
