"""Generated tokens per second of a multi-turn rollout, beside the loop that a user would write with transformers.

    python experiments/bench_rollout.py                       # everything
    python experiments/bench_rollout.py --preset short        # every part, small: a smoke test
    python experiments/bench_rollout.py --parts transformers --batches 32 --json rollout.json

The policy is a random Qwen3-VL of 0.58 million parameters, written by transformers and read by both sides. An episode
is three turns of 40 tokens; between two turns a box of the 512x512 picture is shown at 128x128 pixels (16 embeddings).

The peer (peers/transformers_loop.py) samples freely, looks for a call in the text and, since random weights write
none, crops the box that it is given. Ours is the compiled rollout as it is trained with, one prompt a conversation so
that no prefill is shared. Its turns are a script of 40 tokens that ends in the call of that same box: at every step
the token is sampled as always and then overruled, and the turn is parsed, carried out, encoded and heard as always.
So ours does all that the peer does, and the length of no turn is left to chance. On a CPU ours has a device a core
and spreads the conversations over them (rollout/sharded.py); the peer has as many threads as suits it. Both sides
recompute nothing that they keep; of the peer's two ways to go on after a tool (the cache kept, or the conversation
fed again) the faster counts.

Further parts: the rate of three turns with crops over that of a single turn of as many tokens; how the time grows with
batch, turns, images of a prompt and tokens of a turn (slopes in log-log, drawn into --out); and which share of the row
steps samples a token when episodes are of unequal length.

Both are warmed up and then measured by turns; figures are medians. CPU-seconds are of all threads of the process. The
peak is the rate of a float32 product of 2048x2048 matrices between the same repetitions; operations are counted from
parameters, attention and images, for tokens that belong to a sequence: padding is no work.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import NamedSharding, PartitionSpec
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from peers.measure import by_turns, circumstances, headline, table, timed
from peers.wire import Peer

from medvista_jax import models
from medvista_jax.core.types import ImageBank, Question, Trajectory
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.gym import Environment
from medvista_jax.rollout.loop import Script, rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.rollout.sharded import rollout_sharded
from medvista_jax.rollout.slots import SlotConfig, rollout_slots
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.runtime.mesh import make_mesh
from medvista_jax.text.chat import render_prompt
from medvista_jax.text.tokenizer import SentencePieceTokenizer
from medvista_jax.tools.registry import DEFAULT_TOOLS

TOKENIZER = SentencePieceTokenizer()
TOOLS = tuple(DEFAULT_TOOLS.values())
SIDE, VIEW = 512, 128
CONFIG: dict[str, Any] = {
    "tie_word_embeddings": True,
    "image_token_id": TOKENIZER.special["<|image_pad|>"],
    "vision_start_token_id": TOKENIZER.special["<|vision_start|>"],
    "vision_end_token_id": TOKENIZER.special["<|vision_end|>"],
    "video_token_id": TOKENIZER.vocab_size - 1,
    "text_config": {
        "vocab_size": TOKENIZER.vocab_size,
        "hidden_size": 96,
        "intermediate_size": 240,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": TOKENIZER.pad_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5]},
    },
    "vision_config": {
        "depth": 2,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_heads": 2,
        "patch_size": 16,
        "out_hidden_size": 96,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    },
}

Part = Literal["transformers", "turns", "growth", "slots"]
GROWTH: dict[str, tuple[int, ...]] = {
    "batch": (8, 32, 128),
    "turns": (2, 4, 8),
    "images": (1, 2, 4, 8),
    "tokens": (40, 80, 160),
}
"""What is varied, from three turns of 40 tokens for 32 prompts of one image."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is measured. `preset short` overrules the numbers given beside it."""

    preset: Literal["full", "short"] = "full"
    parts: tuple[Part, ...] = ("transformers", "turns", "growth", "slots")
    batches: tuple[int, ...] = (32, 256)
    turns: int = 3
    tokens: int = 40
    repetitions: int = 5
    threads: tuple[int, ...] = (1, os.cpu_count() or 1)
    """Of the peer: the faster counts."""
    episodes: int = 512
    """In the queue of slot refill, on `slot_rows` rows."""
    slot_rows: int = 32
    json: Path | None = None
    out: Path | None = None
    """Folder for the plot of growth."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """Conversations of one size, for both sides."""

    batch: int
    turns: int = 3
    tokens: int = 40
    images: int = 1

    @property
    def sampled(self) -> int:
        return self.batch * self.turns * self.tokens

    @property
    def views(self) -> int:
        return self.batch * (self.turns - 1)


@dataclasses.dataclass(frozen=True)
class Policy:
    model: Any
    params: Any


def box_of(rng: np.random.Generator) -> list[int]:
    x, y = rng.integers(0, 600, 2)
    width, height = rng.integers(200, 400, 2)
    return [int(v) for v in (x, y, x + width, y + height)]


def call_of(box: Sequence[int]) -> list[int]:
    return TOKENIZER.encode(f"<tool_call>{DEFAULT_TOOLS['zoom_in'].spec.render_call(bbox_2d=list(box))}</tool_call>")


def padded(ids: Sequence[int], tokens: int, rng: np.random.Generator) -> list[int]:
    """Random text in front, so that the turn has its length."""
    if len(ids) > tokens:
        raise SystemExit(f"a call takes {len(ids)} tokens, more than a turn's {tokens}; give more with --tokens")
    return [*rng.integers(300, TOKENIZER.vocab_size, tokens - len(ids)).tolist(), *ids]


def inputs_of(policy: Policy, work: Workload) -> tuple[Question, Script, np.ndarray, np.ndarray]:
    """Questions, the script, pictures ``[B, Y, X]`` (the first of each prompt) and boxes ``[B, R - 1, 4]``."""
    rng = np.random.default_rng(work.batch)
    costs = [policy.model.tokens_per_image] * work.images
    prompt = render_prompt(TOKENIZER, "Which side is brighter, left or right?", costs, [tool.spec for tool in TOOLS])
    images = rng.integers(0, 256, (work.batch, work.images, SIDE, SIDE, 1), dtype=np.uint8)
    boxes = np.array([[box_of(rng) for _ in range(work.turns - 1)] for _ in images]).reshape(work.batch, -1, 4)
    turns = [
        [*(padded(call_of(box), work.tokens, rng) for box in row), padded([], work.tokens, rng)]
        for row in boxes.tolist()
    ]
    rows = lambda ids: np.tile(np.int32(ids), (work.batch, 1))  # noqa: E731
    budget = np.full(work.batch, work.turns, np.int32)
    question = Question(
        tokens_PS=rows(prompt.tokens),
        valid_PS=np.ones((work.batch, len(prompt.tokens)), bool),
        feature_PS=rows(prompt.feature),
        bank=ImageBank.of(images, np.tile(np.float32([0, 255]), (work.batch, work.images, 1))),
        max_turns_P=budget,
        max_calls_P=budget,
        max_images_P=budget,
    )
    script = Script(np.int32(turns), np.full((work.batch, work.turns), work.tokens, np.int32))
    return *jax.tree.map(jnp.asarray, (question, script)), images[:, 0, :, :, 0], boxes


play = jax.jit(rollout, static_argnames=("model", "group"))
play_spread = jax.jit(rollout_sharded, static_argnames=("mesh", "model", "group"))
play_slots = jax.jit(rollout_slots, static_argnames=("model", "group", "config"))


def environment_of(policy: Policy, turns: int, tokens: int) -> Environment:
    model = policy.model
    return build_environment(TOKENIZER, TOOLS, model.tokens_per_image, model.image_size, turns, tokens)


def ours(policy: Policy, work: Workload) -> tuple[Callable[[], dict[str, Any]], Trajectory]:
    """The rollout, timed, as a call without arguments; and its trajectory, checked. The call is warm."""
    question, script, _, _ = inputs_of(policy, work)
    environment = environment_of(policy, work.turns, work.tokens)
    devices = jax.devices()[: math.gcd(work.batch, jax.device_count())]
    mesh = make_mesh({"data": -1}, devices)
    place = lambda tree, *axes: jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axes)))  # noqa: E731
    question, script = place((question, script), "data")
    params, environment, key, sampling = place((policy.params, environment, jax.random.key(0), Sampling.at(1.0)))
    call = lambda: jax.block_until_ready(  # noqa: E731
        play_spread(mesh, policy.model, params, environment, question, key, 1, sampling, script)
    )
    trajectory = call()
    found = int(trajectory.sampled_BS.sum()), int((trajectory.views.count_B - work.images).sum())
    if found != (work.sampled, work.views):
        raise AssertionError(f"{work} gave {found[0]} tokens and {found[1]} views")
    return lambda: timed(call), trajectory


def observation_of(trajectory: Trajectory, work: Workload) -> np.ndarray:
    """The ids of the first row's first observation, without padding."""
    valid, sampled = np.asarray(trajectory.valid_BS[0]), np.asarray(trajectory.sampled_BS[0])
    heard = valid & ~sampled & (np.cumsum(sampled) == work.tokens)
    return np.asarray(trajectory.tokens_BS[0])[heard].astype(np.int64)


def operations(policy: Policy, work: Workload, trajectory: Trajectory) -> float:
    """Floating-point operations of the products that a rollout needs."""
    kernels = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree) if leaf.ndim == 2)  # noqa: E731
    c, params = policy.model.config.decoder, policy.params
    length_B = np.asarray(trajectory.valid_BS).sum(1).astype(float)
    blocks = {name: part for name, part in params["decoder"].items() if name.startswith("layer_")}
    attended = 4 * c.heads * c.head_dim * c.layers * (length_B * (length_B + 1) / 2).sum()
    patches = policy.model.grid[0] * policy.model.grid[1]
    tower = {name: part for name, part in params["vision"].items() if name != "position"}
    an_image = 2 * kernels(tower) * patches + 2 * kernels(params["connector"]) * policy.model.tokens_per_image
    images = work.batch * work.images + work.views
    return (
        2 * kernels(blocks) * length_B.sum() + attended + 2 * c.vocab_size * c.width * work.sampled + an_image * images
    )


def peak() -> tuple[Callable[[], dict[str, Any]], float]:
    """A large float32 product, timed, as a warm call; and its operations."""
    side = 2048
    product, a = jax.jit(jnp.matmul), jnp.ones((side, side), jnp.float32)
    call = lambda: jax.block_until_ready(product(a, a))  # noqa: E731
    call()
    return lambda: timed(call), 2.0 * side**3


def against_transformers(bench: Bench, policy: Policy, peer: Peer, folder: Path, batch: int) -> dict[str, Any]:
    """Tokens per second of both sides at one batch, and ours as a share of the machine's peak."""
    work = Workload(batch, bench.turns, bench.tokens)
    call, trajectory = ours(policy, work)
    question, _, images, boxes = inputs_of(policy, work)
    inputs = folder / f"inputs-{batch}.npz"
    np.savez(
        inputs,
        images_BYX=images,
        boxes_BR4=boxes,
        prompt_BP=np.asarray(question.tokens_PS, np.int64),
        observation_W=observation_of(trajectory, work),
    )
    size = {"inputs": str(inputs), "turns": work.turns, "tokens": work.tokens}
    ways = [
        {"keep": keep, "threads": threads} for keep, threads in itertools.product((False, True), set(bench.threads))
    ]
    # The peer's ways are tried once, which warms them up; the fastest is measured.
    tried = [peer.ask("play", **size, **way) for way in ways]
    best = ways[int(np.argmin([answer["seconds"] for answer in tried]))]
    product, product_operations = peak()
    mine, theirs, largest = by_turns(bench.repetitions, call, lambda: peer.ask("play", **size, **best), product)
    rate = operations(policy, work, trajectory) / mine["seconds"]
    return {
        "batch": batch,
        "tokens": work.sampled,
        "ours": mine,
        "peer": theirs,
        "peer_way": best,
        "peer_tried": {json.dumps(way): answer["seconds"] for way, answer in zip(ways, tried, strict=True)},
        "ratio": theirs["seconds"] / mine["seconds"],
        "ratio_cpu": theirs["cpu_seconds"] / mine["cpu_seconds"],
        "gflop_per_s": rate / 1e9,
        "peak_gflop_per_s": product_operations / largest["seconds"] / 1e9,
        "share_of_peak": rate * largest["seconds"] / product_operations,
    }


def transformers_table(rows: Sequence[Mapping[str, Any]]) -> str:
    rate = lambda row, side, what="seconds": f"{row['tokens'] / row[side][what]:,.0f}"  # noqa: E731
    lines = [
        [
            row["batch"],
            rate(row, "ours"),
            rate(row, "peer"),
            f"{row['ratio']:.1f}",
            rate(row, "ours", "cpu_seconds"),
            rate(row, "peer", "cpu_seconds"),
            f"{row['ratio_cpu']:.1f}",
            f"{row['gflop_per_s']:.1f} of {row['peak_gflop_per_s']:.0f} GFLOP/s ({100 * row['share_of_peak']:.0f} %)",
        ]
        for row in rows
    ]
    head = ["conversations", "ours, tokens/s", "loop, tokens/s", "ratio"]
    return table([*head, "ours, tokens/CPU-s", "loop, tokens/CPU-s", "ratio", "of the peak"], lines)


def multi_over_single(bench: Bench, policy: Policy) -> dict[str, Any]:
    """The rate of turns with crops over that of one turn of as many tokens."""
    batch = bench.batches[0]
    many, _ = ours(policy, Workload(batch, bench.turns, bench.tokens))
    one, _ = ours(policy, Workload(batch, 1, bench.turns * bench.tokens))
    several, single = by_turns(bench.repetitions, many, one)
    return {"batch": batch, "several": several, "single": single, "ratio": single["seconds"] / several["seconds"]}


def growth(bench: Bench, policy: Policy, varied: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Seconds and CPU-seconds as one size is varied at a time, and slopes of log CPU-seconds over log size."""
    base = Workload(bench.batches[0], bench.turns, bench.tokens)
    result = {}
    for name, sizes in varied.items():
        say(f"growth with {name}")
        calls = [ours(policy, dataclasses.replace(base, **{name: size}))[0] for size in sizes]
        medians = by_turns(bench.repetitions, *calls)
        cpu = [answer["cpu_seconds"] for answer in medians]
        slope = float(np.polyfit(np.log(sizes), np.log(cpu), 1)[0])
        result[name] = {"sizes": list(sizes), "medians": medians, "slope": slope}
    return result


def draw_growth(result: Mapping[str, Any], path: Path) -> None:
    """A panel a size, both axes logarithmic."""
    figure = Figure(figsize=(3.1 * len(result), 2.9), layout="constrained", dpi=160)
    FigureCanvasAgg(figure)
    for ax, (name, part) in zip(figure.subplots(1, len(result), squeeze=False)[0], result.items(), strict=True):
        for what, colour, label in (("seconds", "#2563a8", "wall"), ("cpu_seconds", "#d9730d", "CPU")):
            values = [answer[what] for answer in part["medians"]]
            ax.loglog(part["sizes"], values, "o-", color=colour, linewidth=1.6, markersize=4, label=label)
        ax.set_title(f"{name}: slope {part['slope']:.2f}", fontsize=10, fontweight="bold", loc="left")
        ax.set_xticks(part["sizes"], list(map(str, part["sizes"])))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel(name, fontsize=9)
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.25, linewidth=0.6, which="both")
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("seconds of a rollout", fontsize=9)
    figure.axes[0].legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def spread_question(policy: Policy, episodes: int, turns: int, tokens: int) -> Question:
    """Questions whose budgets of turns and of tokens a turn are spread evenly, 1 : 10."""
    rng = np.random.default_rng(0)
    question, _, _, _ = inputs_of(policy, Workload(episodes, turns, 40))
    limits_PR = rng.integers(max(1, tokens // 10), tokens + 1, (episodes, turns))
    return question.replace(
        max_turns_P=jnp.asarray(rng.integers(1, turns + 1, episodes), jnp.int32),
        turn_tokens_PR=jnp.asarray(limits_PR, jnp.int32),
    )


def slots_beside_lockstep(bench: Bench, policy: Policy, episodes: int) -> dict[str, Any]:
    """Slot refill and the plain loop on the same episodes, by batches of as many rows; a random policy that hardly ever
    ends a turn by itself, so that budgets decide the lengths."""
    turns, tokens, rows = 10, 40, min(bench.slot_rows, episodes)
    question = spread_question(policy, episodes, turns, tokens)
    environment, key, sampling = environment_of(policy, turns, tokens), jax.random.key(0), Sampling.at(1.0)
    config = SlotConfig(rows=rows)
    common = (policy.model, policy.params, environment)
    refill = lambda: jax.block_until_ready(play_slots(*common, question, key, 1, sampling, config))  # noqa: E731
    batches = [jax.tree.map(lambda leaf, at=at: leaf[at : at + rows], question) for at in range(0, episodes, rows)]

    def lockstep() -> list[Trajectory]:
        return [jax.block_until_ready(play(*common, batch, key, 1, sampling)) for batch in batches]

    _, stats = refill()
    played = lockstep()
    length_NR = np.concatenate([np.asarray(t.turns.length_BR) for t in played])
    steps = sum(np.asarray(t.turns.length_BR).max(axis=0).sum() for t in played)
    mine, plain = by_turns(min(bench.repetitions, 3), lambda: timed(refill), lambda: timed(lockstep))
    return {
        "episodes": episodes,
        "rows": rows,
        "tokens": int(stats.useful),
        "utilisation": int(stats.useful) / int(stats.row_steps),
        "lockstep_utilisation": float(length_NR.sum() / (rows * steps)),
        "refill": mine,
        "lockstep": plain,
        "ratio": plain["seconds"] / mine["seconds"],
    }


def say(what: str) -> None:
    print(f"{what} …", file=sys.stderr, flush=True)


def parts_with_peer(bench: Bench, result: dict[str, Any]) -> None:
    """The parts that need the policy, which the peer writes."""
    with tempfile.TemporaryDirectory(prefix="bench_rollout_") as scratch:
        folder = Path(scratch)
        with Peer(Path(__file__).parent / "peers" / "transformers_loop.py") as peer:
            peer.ask("make", folder=str(folder / "policy"), config=CONFIG)
            parameters = peer.ask("load", folder=str(folder / "policy"), view=VIEW)["result"]
            policy = Policy(*models.load(folder / "policy", jnp.float32, image_size=(VIEW, VIEW)))
            print(f"{parameters:,} parameters, {bench.turns} turns of {bench.tokens} tokens\n")
            if "transformers" in bench.parts:
                rows = []
                for batch in bench.batches:
                    say(f"transformers at {batch} conversations")
                    rows.append(against_transformers(bench, policy, peer, folder, batch))
                    result[f"ratio_tokens_per_s_vs_transformers_{batch}"] = rows[-1]["ratio"]
                result |= {"transformers": rows, "share_of_peak_flops": rows[-1]["share_of_peak"]}
                print(transformers_table(rows) + "\n")
        if "turns" in bench.parts:
            say("several turns beside one")
            told = multi_over_single(bench, policy)
            result |= {"turns": told, "multi_turn_over_single_turn": told["ratio"]}
            print(f"{bench.turns} turns with crops over one turn of as many tokens: {told['ratio']:.2f} of its rate\n")
        if "growth" in bench.parts:
            varied = {"tokens": (bench.tokens, 2 * bench.tokens)} if bench.preset == "short" else GROWTH
            result["growth"] = growth(bench, policy, varied)
            lines = [
                [name, ", ".join(map(str, part["sizes"])), f"{part['slope']:.2f}"]
                for name, part in result["growth"].items()
            ]
            print(table(["varied", "sizes", "slope of CPU-seconds in log-log"], lines) + "\n")
            if bench.out is not None:
                draw_growth(result["growth"], bench.out / "rollout_growth.png")
        if "slots" in bench.parts:
            say("slot refill beside batches in step")
            told = slots_beside_lockstep(bench, policy, bench.episodes)
            result |= {"slots": told, "slot_utilisation": told["utilisation"]}
            used, in_step = (f"{100 * told[name]:.0f} %" for name in ("utilisation", "lockstep_utilisation"))
            rate = (
                f"{told['tokens'] / told['refill']['seconds']:,.0f} tokens/s, {told['ratio']:.1f} times the plain loop"
            )
            print(
                f"{told['episodes']} episodes of 1 to 10 turns of 4 to 40 tokens on {told['rows']} rows: "
                f"{used} of row steps sample a token ({in_step} in step), {rate}"
            )


def main() -> int:
    bench = tyro.cli(Bench, description=__doc__)
    if bench.preset == "short":
        bench = dataclasses.replace(
            bench, batches=(2,), turns=2, tokens=32, repetitions=1, threads=(1,), episodes=32, slot_rows=8
        )
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    enable_compile_cache()
    result: dict[str, Any] = {"circumstances": circumstances()}
    print(headline(result["circumstances"]) + "\n")
    parts_with_peer(bench, result)
    if bench.json is not None:
        bench.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
