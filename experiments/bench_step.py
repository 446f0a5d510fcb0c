"""A GRPO step, its sampler and three turns of it, beside google-tunix 0.1.7 on the same shape.

    python experiments/bench_step.py                     # makes tunix's virtual environment at first
    python experiments/bench_step.py --preset short      # small sizes: a smoke test
    python experiments/bench_step.py --venv DIR --json step.json

The policy is a Qwen3 decoder of 4 layers, width 256 and 4,096 ids, 4.98 million random float32 parameters. A batch is
8 prompts of 64 tokens with 4 samples each, 128 new tokens a turn. In ours the decoder is a Qwen3-VL's; no prompt shows
the one image that its bank must hold.

Three turns: tunix has no loop for several turns, so its path is that of its agents: each turn feeds the conversation
again, with what was said and a text from outside. Ours is the rollout; its policy calls nothing, hears so after each
turn, and the peer is fed that text. No stop string ends a turn on either side, so all turns have their full length.

tunix lives in a virtual environment of its own, for it wants other versions than we do, and answers from a child
process (peers/tunix_grpo.py, which names its settings). Both sides are warmed up and then measured by turns; figures
are medians. CPU-seconds are of all threads of a process: the machine's other work spoils them less than wall time.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from peers.measure import by_turns, circumstances, headline, table, timed
from peers.wire import Peer

from medvista_jax.core.types import AnswerKey, ImageBank, Question, Trajectory
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.gym import Environment
from medvista_jax.learning.grpo import GRPOConfig, grpo_step
from medvista_jax.learning.rewards import PRESETS, RewardTerms
from medvista_jax.learning.state import start
from medvista_jax.models.families import FAMILIES, read_config
from medvista_jax.rollout.loop import rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.compile_cache import cache_folder, enable_compile_cache
from medvista_jax.text.tokenizer import SentencePieceTokenizer, pack_token_bytes
from medvista_jax.tools.registry import DEFAULT_TOOLS

TUNIX = "google-tunix==0.1.7"
AIMS = {"ratio_cpu_s_vs_tunix_3_turns": 3.0, "ratio_cpu_s_vs_tunix_1_turn": 1.0, "ratio_step_vs_tunix": 1.5}


@dataclasses.dataclass(frozen=True)
class Bench:
    """Sizes. `preset short` overrules the numbers given beside it."""

    preset: Literal["full", "short"] = "full"
    layers: int = 4
    width: int = 256
    feed_forward: int = 1024
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    vocab: int = 4096
    prompts: int = 8
    group: int = 4
    prompt: int = 64
    tokens: int = 128
    turns: int = 3
    chunk: int = 4
    """Rows of the update at a time."""
    repetitions: int = 5
    venv: Path | None = None
    """tunix's virtual environment; beside the package's caches by default."""
    peer: bool = True
    """Whether tunix is measured at all."""
    json: Path | None = None


@dataclasses.dataclass(frozen=True)
class WideTokenizer(SentencePieceTokenizer):
    """The tiny vocabulary, with ids that spell a full stop up to the size wanted."""

    size: int = 4096

    @property
    def vocab_size(self) -> int:
        return self.size

    def token_bytes(self) -> tuple[np.ndarray, np.ndarray]:
        return pack_token_bytes([*self._pieces, *[b"."] * (self.size - len(self._pieces))])


def lower_half(trajectory: Trajectory, key: AnswerKey) -> RewardTerms:
    """The share of sampled ids in the lower half of the vocabulary, as the peer's reward has it."""
    low_BS = trajectory.sampled_BS & (trajectory.tokens_BS < jnp.max(key.family_P))
    share_B = jnp.sum(low_BS, axis=1) / jnp.maximum(jnp.sum(trajectory.sampled_BS, axis=1), 1)
    return RewardTerms(share_B, share_B, {})


PRESETS["lower_half"] = lower_half


def policy(bench: Bench) -> tuple[Any, Any]:
    """A random Qwen3-VL whose tower is as small as can be."""
    half = bench.head_dim // 2
    config = {
        "model_type": "qwen3_vl",
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "hidden_size": bench.width,
            "intermediate_size": bench.feed_forward,
            "num_hidden_layers": bench.layers,
            "num_attention_heads": bench.heads,
            "num_key_value_heads": bench.kv_heads,
            "head_dim": bench.head_dim,
            "vocab_size": bench.vocab,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
            },
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 1,
            "patch_size": 4,
            "out_hidden_size": bench.width,
            "num_position_embeddings": 4,
            "deepstack_visual_indexes": [],
        },
    }
    family = FAMILIES["qwen3_vl"]
    with tempfile.TemporaryDirectory(prefix="bench_step_") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        model = family.model_class()(read_config(family, Path(folder))).with_image_size(8, 8)
    return model, jax.jit(model.init)(jax.random.key(0))


def environment_of(bench: Bench, model: Any, turns: int) -> Environment:
    """Its stop strings are never found."""
    tools = tuple(DEFAULT_TOOLS.values())
    environment = build_environment(
        WideTokenizer(size=bench.vocab), tools, model.tokens_per_image, model.image_size, turns, bench.tokens
    )
    return environment.replace(stops=environment.stops._replace(table=jnp.zeros_like(environment.stops.table)))


def question_of(bench: Bench, prompts: list[list[int]]) -> Question:
    count = len(prompts)
    budget = np.full(count, bench.turns, np.int32)
    window = np.tile(np.float32([0, 255]), (count, 1, 1))
    question = Question(
        tokens_PS=np.int32(prompts),
        valid_PS=np.ones((count, bench.prompt), bool),
        feature_PS=np.full((count, bench.prompt), -1, np.int32),
        bank=ImageBank.of(np.zeros((count, 1, 8, 8, 1), np.uint8), window),
        max_turns_P=budget,
        max_calls_P=budget,
        max_images_P=budget,
    )
    return jax.tree.map(jnp.asarray, question)


play = jax.jit(rollout, static_argnames=("model", "group"))


class Ours:
    """The same work, as calls that come back when all is computed."""

    def __init__(self, bench: Bench, prompts: list[list[int]]) -> None:
        self.bench, self.question = bench, question_of(bench, prompts)
        self.model, self.params = policy(bench)
        self.environments = {turns: environment_of(bench, self.model, turns) for turns in (1, bench.turns)}
        self.optimizer = optax.adamw(1e-5)
        self.config = GRPOConfig(group=bench.group, reward="lower_half", buckets=(), chunk=bench.chunk)
        self.state = start(self.params, ("^decoder",), self.optimizer, jax.random.key(0))
        half = jnp.full((bench.prompts,), bench.vocab // 2, jnp.int32)
        self.key = AnswerKey(jnp.zeros((bench.prompts, 4), jnp.uint8), jnp.zeros((bench.prompts, 4)), half)

    def turns(self, turns: int) -> Trajectory:
        trajectory = jax.block_until_ready(
            play(
                self.model,
                self.params,
                self.environments[turns],
                self.question,
                jax.random.key(0),
                self.bench.group,
                Sampling.at(1.0),
            )
        )
        self.check(turns, int(trajectory.sampled_BS.sum()))
        return trajectory

    def step(self) -> None:
        self.state, metrics = jax.block_until_ready(
            grpo_step(
                self.model,
                self.optimizer,
                self.config,
                self.environments[1],
                self.state,
                self.question,
                self.key,
                Sampling.at(1.0),
            )
        )
        self.check(1, int(metrics["sampled_tokens"]))

    def check(self, turns: int, sampled: int) -> None:
        wanted = self.bench.prompts * self.bench.group * self.bench.tokens * turns
        if sampled != wanted:
            raise AssertionError(f"{sampled} tokens in {turns} turns instead of {wanted}")

    def observation(self, trajectory: Trajectory) -> list[int]:
        """The ids that a row hears after its first turn."""
        valid, sampled = np.asarray(trajectory.valid_BS[0]), np.asarray(trajectory.sampled_BS[0])
        heard = valid & ~sampled & (np.cumsum(sampled) == self.bench.tokens)
        return np.asarray(trajectory.tokens_BS[0])[heard].tolist()


def tunix_python(folder: Path) -> Path:
    """The interpreter of tunix's environment, made if it is not there. RuntimeError says what is missing."""
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = folder / "installed"
    if not done.exists():
        say(f"installing {TUNIX} into {folder}")
        venv.create(folder, with_pip=True)
        run = subprocess.run([python, "-m", "pip", "install", "--quiet", TUNIX], capture_output=True, text=True)
        if run.returncode:
            last = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else "pip said nothing"
            raise RuntimeError(
                f"{TUNIX} could not be installed into {folder}: {last}\nA package index is needed once; "
                "`--venv DIR` names an environment made elsewhere, `--no-peer` measures ours alone"
            )
        done.write_text(TUNIX + "\n")
    return python


def measure(bench: Bench, peer: Peer | None) -> dict[str, Any]:
    """Medians of both sides for one turn, several turns and the step."""
    rng = np.random.default_rng(0)
    ids = rng.integers(300, 768, (bench.prompts, bench.prompt))
    ids[:, 0] = 1  # tunix puts its first symbol there
    prompts = ids.tolist()
    ours = Ours(bench, prompts)
    say("warm-up of ours")
    heard = ours.observation(ours.turns(bench.turns))
    ours.turns(1), ours.step()
    jobs: dict[str, Any] = {
        "one turn": (lambda: ours.turns(1), {"job": "turns", "turns": 1, "observation": []}),
        f"{bench.turns} turns": (
            lambda: ours.turns(bench.turns),
            {"job": "turns", "turns": bench.turns, "observation": heard},
        ),
        "GRPO step": (ours.step, {"job": "step"}),
    }
    result: dict[str, Any] = {"observation_tokens": len(heard)}
    if peer is not None:
        say("warm-up of tunix")
        shape = {
            "num_layers": bench.layers,
            "vocab_size": bench.vocab,
            "embed_dim": bench.width,
            "hidden_dim": bench.feed_forward,
            "num_heads": bench.heads,
            "head_dim": bench.head_dim,
            "num_kv_heads": bench.kv_heads,
        }
        loaded = peer.ask("load", model=shape, prompts=prompts, group=bench.group, tokens=bench.tokens)
        result["parameters"] = loaded["result"]
        for _, asked in jobs.values():
            peer.ask(**asked), peer.ask(**asked)
    for name, (mine, asked) in jobs.items():
        say(name)
        calls = [lambda mine=mine: timed(mine)]
        if peer is not None:
            calls.append(lambda asked=asked: peer.ask(**asked))
        result[name] = dict(zip(("ours", "tunix"), by_turns(bench.repetitions, *calls), strict=False))
    return result


def figures(bench: Bench, result: dict[str, Any]) -> dict[str, float]:
    """The ratios, tunix over ours."""
    ratio = lambda name, what: result[name]["tunix"][what] / result[name]["ours"][what]  # noqa: E731
    return {
        "ratio_cpu_s_vs_tunix_3_turns": ratio(f"{bench.turns} turns", "cpu_seconds"),
        "ratio_cpu_s_vs_tunix_1_turn": ratio("one turn", "cpu_seconds"),
        "ratio_step_vs_tunix": ratio("GRPO step", "seconds"),
    }


def report(bench: Bench, result: dict[str, Any]) -> str:
    rows = []
    for name in ("one turn", f"{bench.turns} turns", "GRPO step"):
        sides = result[name]
        seconds = [f"{sides[side]['seconds']:.2f} s" if side in sides else "-" for side in ("ours", "tunix")]
        cpu = [f"{sides[side]['cpu_seconds']:.2f}" if side in sides else "-" for side in ("ours", "tunix")]
        ratio = lambda what, sides=sides: f"{sides['tunix'][what] / sides['ours'][what]:.2f}" if len(sides) > 1 else "-"  # noqa: E731
        rows.append([name, *seconds, ratio("seconds"), *cpu, ratio("cpu_seconds")])
    head = ["", "ours", "tunix", "ratio", "ours, CPU-s", "tunix, CPU-s", "ratio"]
    return table(head, rows)


def say(what: str) -> None:
    print(f"{what} …", file=sys.stderr, flush=True)


def main() -> int:
    bench = tyro.cli(Bench, description=__doc__)
    if bench.preset == "short":
        bench = dataclasses.replace(
            bench, layers=1, width=32, feed_forward=48, heads=2, kv_heads=1, head_dim=16, vocab=1024,
            prompts=2, group=2, prompt=32, tokens=8, turns=2, chunk=4, repetitions=1,
        )  # fmt: skip
    enable_compile_cache()
    told = circumstances()
    if bench.peer:
        try:
            python = tunix_python(bench.venv or cache_folder() / "tunix-0.1.7")
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            print(f"bench_step: {error}", file=sys.stderr)
            return 2
        with Peer(Path(__file__).parent / "peers" / "tunix_grpo.py", python, JAX_PLATFORMS="cpu") as peer:
            result = measure(bench, peer)
        result |= figures(bench, result)
    else:
        result = measure(bench, None)
    print(f"\n{headline(told)}\n\n{report(bench, result)}")
    if bench.json is not None:
        bench.json.write_text(json.dumps({"circumstances": told, **result}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
