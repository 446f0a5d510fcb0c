"""Compile a plan's programs for TPUs that are not here, and say whether they fit.

    make aot ARGS="--plan qwen3-vl-8b/v6e-16"                       # installs the compiler beside the other packages
    python -m medvista_jax.runtime.aot --model qwen3-vl-8b --topology v6e:4x4 --mesh fsdp=4,tensor=4
    python -m medvista_jax.runtime.aot --all --json plans.json      # every ready-made plan; prints the README's table

With --json every program is written down as it is compiled, and one that stands in the file for the same plan and jax
is not compiled again: the command can be stopped and repeated. After a change of the code begin another file.

Needs the TPU compiler and no TPU: 'make aot' brings it, or TPU_LIBRARY_PATH names a libtpu.so. Exits with 1 where a
program does not fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NAMES = ("prefill", "rollout", "update", "step")


def parser() -> argparse.ArgumentParser:
    """The command line; sizes left out are those of :class:`medvista_jax.runtime.aot.plans.Plan`."""
    from medvista_jax.runtime.aot.plans import MODELS, PLANS

    text = argparse.RawDescriptionHelpFormatter
    command = argparse.ArgumentParser("python -m medvista_jax.runtime.aot", description=__doc__, formatter_class=text)
    command.add_argument("--plan", choices=sorted(PLANS), help="a ready-made plan; options beside it overrule it")
    command.add_argument("--all", action="store_true", help="every ready-made plan, as a table")
    command.add_argument("--small", action="store_true", help="the small plan that the tests compile")
    command.add_argument("--model", help=f"{', '.join(MODELS)}, or a folder in the hub's layout")
    command.add_argument("--topology", help="such as v5e:8x8, v6e:4x4, v5p:2x2x1")
    command.add_argument("--mesh", help="such as fsdp=4,tensor=4; axes left out are 1")
    for name in ("prompts", "group", "crops", "context", "chunk", "canvas"):
        command.add_argument(f"--{name}", type=int)
    command.add_argument("--remat", help="none, full, dots or dots_no_batch")
    command.add_argument("--programs", default=",".join(NAMES), help="which, with commas between; default: all")
    command.add_argument("--json", type=Path, help="the same as data")
    return command


def plans_of(options: argparse.Namespace) -> dict[str, Any]:
    """Name -> plan.

    Raises:
      ValueError: a mesh that makes no sense, or a size that is not positive.
    """
    from medvista_jax.runtime.aot.plans import PLANS, SMALL, Plan
    from medvista_jax.runtime.mesh import abstract_mesh, parse_mesh

    if options.all:
        return dict(PLANS)
    if options.small:
        return {"small": SMALL}
    plan = PLANS[options.plan] if options.plan else Plan()
    names = [field.name for field in dataclasses.fields(Plan) if field.name != "mesh"]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    for name, value in given.items():
        if isinstance(value, int) and value < (0 if name == "crops" else 1):
            raise ValueError(f"--{name} {value} is too small")
    if options.mesh is not None:
        given["mesh"] = tuple(abstract_mesh(parse_mesh(options.mesh)).axis_sizes)
    return {options.plan or "plan": dataclasses.replace(plan, **given)}


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported; the topology's name finds the compiler
    options = parser().parse_args(arguments)
    from medvista_jax.models.tensor_files import BadCheckpoint
    from medvista_jax.runtime.aot.measure import NoCompiler
    from medvista_jax.runtime.mesh import MeshError

    wanted = [name for name in options.programs.split(",") if name]
    if unknown := [name for name in wanted if name not in NAMES]:
        print(f"--programs: {unknown[0]!r} is none of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    try:
        results = written(options.json)

        def keep() -> None:  # after each program: it takes long, and the next may fail
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

        plans = plans_of(options)
        for name, plan in plans.items():
            compile_plan(name, plan, wanted, results, keep)
        results = {name: results[name] for name in plans}
    except (NoCompiler, MeshError, BadCheckpoint, ValueError, OSError) as error:
        print(f"aot: {error}", file=sys.stderr)
        return 2
    if options.all:
        from medvista_jax.runtime.aot.table import table

        print(table(results, datetime.date.today()))
    return 0 if all(program["fits"] for one in results.values() for program in one["programs"].values()) else 1


def written(path: Path | None) -> dict[str, Any]:
    """What an earlier call left in its ``--json`` file; empty where there is none.

    Raises:
      ValueError: the file is something else.
    """
    if path is None or not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all({"plan", "jax", "programs"} <= set(result) for result in found.values()):
            return found
    except (ValueError, AttributeError, TypeError):
        pass  # said below
    raise ValueError(f"--json {path} is there and was not written by this command; name another file, or remove it")


def compile_plan(
    name: str, plan: Any, wanted: Sequence[str], results: dict[str, Any], keep: Callable[[], None]
) -> None:
    """Compile and print the programs of a plan that ``results`` lacks; each is added there, and ``keep`` called."""
    import jax

    from medvista_jax.runtime import provenance
    from medvista_jax.runtime.aot.measure import compile_program, describe, topology_mesh
    from medvista_jax.runtime.aot.programs import programs, setting_of
    from medvista_jax.runtime.aot.table import lines

    # No compilation cache: what is compiled for a topology cannot be read back without its chips.
    print(f"{name}: {describe(plan)}", flush=True)
    described = json.loads(json.dumps(dataclasses.asdict(plan)))
    same = name in results and (results[name]["plan"], results[name]["jax"]) == (described, jax.__version__)
    found = results[name]["programs"] if same else {}
    if set(wanted) <= set(found):
        print("  all of it is in the --json file", flush=True)
        return
    setting = setting_of(plan, topology_mesh(plan.topology, plan.mesh))
    results[name] = {
        "plan": described,
        "turns": setting.environment.turns,
        "turn_tokens": setting.environment.turn_tokens,
        "prompt_slots": setting.prompt_slots,
        "observation_slots": setting.environment.observation_slots,
        "jax": jax.__version__,
        "programs": found,
    }
    for program in programs(setting):
        if program.name not in wanted or program.name in found:
            continue
        _, measured = compile_program(program, setting)
        print("\n".join(lines(measured)), flush=True)
        found[program.name] = {
            **dataclasses.asdict(measured),
            "fits": measured.fits,
            "commit": provenance.commit(),
            "date": provenance.today(),
        }
        keep()


if __name__ == "__main__":
    sys.exit(main())
