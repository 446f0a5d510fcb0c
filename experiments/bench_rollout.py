"""Generated tokens per second of a multi-turn rollout, beside the loop that a user would write with transformers.

    python experiments/bench_rollout.py                       # everything; about twenty minutes on two cores
    python experiments/bench_rollout.py --preset short        # every part, small: a smoke test of under a minute
    python experiments/bench_rollout.py --parts transformers --batches 32 --json rollout.json

The policy is a random Qwen3-VL of 0.58 million parameters, written by transformers and read by both sides. An episode
is three turns of 40 tokens; between two turns a box of the 512x512 picture is shown at 128x128 pixels (16 embeddings).

The peer (peers/transformers_loop.py) samples freely, looks for a call in the text and, since random weights write
none, crops the box that it is given. Ours is the compiled rollout as it is trained with, one prompt a conversation so
that no prefill is shared. Its turns are a script of 40 tokens that ends in the call of that same box: at every step the
token is sampled as always and then overruled, and the turn is parsed, carried out, encoded and heard as always. So
ours does all that the peer does, and the length of no turn is left to chance. Both sides recompute nothing that they
keep; of the peer's two ways to go on after a tool (the cache kept, or the conversation fed again) the faster counts.

Both are warmed up and then measured by turns; figures are medians. CPU-seconds are of all threads of the process.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from peers.wire import Peer, timed

from medvista_jax import models
from medvista_jax.core.types import ImageBank, Question
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.gym import Environment
from medvista_jax.rollout.loop import Script, rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.compile_cache import enable_compile_cache
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


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is measured. `preset short` overrules the numbers given beside it."""

    preset: Literal["full", "short"] = "full"
    parts: tuple[Part, ...] = ("transformers", "turns", "growth", "slots")
    batches: tuple[int, ...] = (32, 256)
    turns: int = 3
    tokens: int = 40
    repetitions: int = 5
    json: Path | None = None
    out: Path | None = None
    """Folder for the plot of growth."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """Conversations of one size, for both sides."""

    batch: int
    turns: int
    tokens: int

    @property
    def sampled(self) -> int:
        return self.batch * self.turns * self.tokens


def box_of(rng: np.random.Generator) -> list[int]:
    x, y = rng.integers(0, 600, 2)
    width, height = rng.integers(200, 400, 2)
    return [int(v) for v in (x, y, x + width, y + height)]


def call_of(box: Sequence[int]) -> list[int]:
    return TOKENIZER.encode(f"<tool_call>{DEFAULT_TOOLS['zoom_in'].spec.render_call(bbox_2d=list(box))}</tool_call>")


def padded(ids: Sequence[int], tokens: int, rng: np.random.Generator) -> list[int]:
    """Random text in front, so that the turn has its length."""
    return [*rng.integers(300, TOKENIZER.vocab_size, tokens - len(ids)).tolist(), *ids]


def inputs_of(work: Workload) -> tuple[Question, Script, np.ndarray, np.ndarray]:
    """Questions, the script, pictures ``[B, Y, X]`` and boxes ``[B, R - 1, 4]``."""
    rng = np.random.default_rng(work.batch)
    prompt = render_prompt(TOKENIZER, "Which side is brighter, left or right?", [16], [tool.spec for tool in TOOLS])
    images = rng.integers(0, 256, (work.batch, SIDE, SIDE), dtype=np.uint8)
    boxes = np.array([[box_of(rng) for _ in range(work.turns - 1)] for _ in images]).reshape(work.batch, -1, 4)
    turns = [
        [*(padded(call_of(box), work.tokens, rng) for box in row), padded([], work.tokens, rng)]
        for row in boxes.tolist()
    ]
    rows = lambda ids: np.tile(np.int32(ids), (work.batch, 1))  # noqa: E731
    budget = np.full(work.batch, work.turns, np.int32)
    window = np.tile(np.float32([0, 255]), (work.batch, 1, 1))
    question = Question(
        tokens_PS=rows(prompt.tokens),
        valid_PS=np.ones((work.batch, len(prompt.tokens)), bool),
        feature_PS=rows(prompt.feature),
        bank=ImageBank.of(images[:, None, :, :, None], window),
        max_turns_P=budget,
        max_calls_P=budget,
        max_images_P=budget,
    )
    script = Script(np.int32(turns), np.full((work.batch, work.turns), work.tokens, np.int32))
    return *jax.tree.map(jnp.asarray, (question, script)), images, boxes


def environment_of(model: Any, turns: int, tokens: int) -> Environment:
    return build_environment(TOKENIZER, TOOLS, model.tokens_per_image, model.image_size, turns, tokens)


play = jax.jit(rollout, static_argnames=("model", "group"))


def ours(model: Any, params: Any, work: Workload) -> tuple[Callable[[], Any], Any]:
    """The rollout as a call without arguments, warmed up, and its trajectory, checked."""
    question, script, _, _ = inputs_of(work)
    environment, key, sampling = environment_of(model, work.turns, work.tokens), jax.random.key(0), Sampling.at(1.0)
    call = lambda: jax.block_until_ready(  # noqa: E731
        play(model, params, environment, question, key, 1, sampling, script)
    )
    trajectory = call()
    sampled, calls = int(trajectory.sampled_BS.sum()), int(trajectory.calls_B.sum())
    views = int((trajectory.views.count_B - 1).sum())
    if (sampled, calls, views) != (work.sampled, work.batch * (work.turns - 1), work.batch * (work.turns - 1)):
        raise AssertionError(f"{work} gave {sampled} tokens, {calls} calls and {views} views")
    return call, trajectory


def observation_of(trajectory: Any, work: Workload, prompt: int) -> np.ndarray:
    """The ids of the first observation, without padding."""
    first = np.array(trajectory.valid_BS[0] & ~trajectory.sampled_BS[0])
    first[:prompt] = False
    turn = np.cumsum(np.asarray(trajectory.sampled_BS[0]))
    return np.asarray(trajectory.tokens_BS[0])[first & (turn == work.tokens)].astype(np.int64)


def by_turns(repetitions: int, *calls: Callable[[], Mapping[str, Any]]) -> list[dict[str, float]]:
    """Medians of seconds and CPU-seconds of each, measured by turns so that all meet the same machine."""
    seen: list[list[Mapping[str, Any]]] = [[] for _ in calls]
    for _ in range(repetitions):
        for call, answers in zip(calls, seen, strict=True):
            answers.append(call())
    middle = lambda answers, what: statistics.median(answer[what] for answer in answers)  # noqa: E731
    return [{what: middle(answers, what) for what in ("seconds", "cpu_seconds")} for answers in seen]


def against_transformers(bench: Bench, model: Any, params: Any, peer: Peer, folder: Path) -> list[dict[str, Any]]:
    """A row a batch: both sides' tokens per second."""
    rows = []
    for batch in bench.batches:
        work = Workload(batch, bench.turns, bench.tokens)
        say(f"transformers at {batch} conversations")
        call, trajectory = ours(model, params, work)
        question, _, images, boxes = inputs_of(work)
        inputs = folder / f"inputs-{batch}.npz"
        prompt = np.asarray(question.tokens_PS, np.int64)
        said = observation_of(trajectory, work, prompt.shape[1])
        np.savez(inputs, images_BYX=images, boxes_BR4=boxes, prompt_BP=prompt, observation_W=said)
        ask = lambda keep, **settings: peer.ask(  # noqa: E731
            "play", **{"inputs": str(inputs), "turns": work.turns, "tokens": work.tokens, "keep": keep} | settings
        )
        for keep in (False, True):
            ask(keep, tokens=4)
        mine, again, keep = by_turns(bench.repetitions, lambda: timed(call), lambda: ask(False), lambda: ask(True))
        rows.append({"batch": batch, "tokens": work.sampled, "ours": mine, "again": again, "keep": keep})
    return rows


def say(what: str) -> None:
    print(f"{what} …", file=sys.stderr, flush=True)


def main() -> int:
    bench = tyro.cli(Bench, description=__doc__)
    enable_compile_cache()
    with tempfile.TemporaryDirectory(prefix="bench_rollout_") as scratch:
        folder = Path(scratch)
        with Peer(Path(__file__).parent / "peers" / "transformers_loop.py") as peer:
            peer.ask("make", folder=str(folder / "policy"), config=CONFIG)
            parameters = peer.ask("load", folder=str(folder / "policy"), view=VIEW, threads=os.cpu_count())["result"]
            model, params = models.load(folder / "policy", jnp.float32, image_size=(VIEW, VIEW))
            print(parameters)
            for row in against_transformers(bench, model, params, peer, folder):
                print(row)
                for s in ("ours", "again", "keep"):
                    print(s, row["tokens"] / row[s]["seconds"], row["tokens"] / row[s]["cpu_seconds"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
