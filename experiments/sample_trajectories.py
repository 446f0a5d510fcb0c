"""Collect trajectories of a checkpoint, a chat endpoint or the scripted teachers, and keep those worth learning from.

    python experiments/sample_trajectories.py --quickstart runs/quickstart/seed_0 --out runs/sampled
    python experiments/sample_trajectories.py --hub MODEL_FOLDER --adapters ADAPTER_FOLDER --tools zoom_in flip
    python experiments/sample_trajectories.py --endpoint http://127.0.0.1:8000/v1 --endpoint-model NAME --samples 4
    python experiments/sample_trajectories.py --teach --tools zoom_in adjust_window pan_compare --samples 1
    python experiments/sample_trajectories.py --quickstart runs/quickstart/seed_0 --keep.easiest 0.8 --keep.hardest 0.2
    python experiments/sample_trajectories.py … --resume         # go on after Ctrl-C

K samples a question are played. OUT/sampled.jsonl holds all of them, OUT/trajectories.jsonl what passed the filter,
both in the format of `medvista_jax.data.trajectories`; OUT/pass_rates.jsonl has how often each question was answered
right, for curricula; OUT/table.md and table.json have how many were kept of each family, and why the others were not.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from medvista_jax import models
from medvista_jax.core.types import Params
from medvista_jax.data.questions import QuestionPool
from medvista_jax.data.sources import MissingSource
from medvista_jax.data.teachers import TeacherConfig, teach
from medvista_jax.data.trajectories import HostLog, Record, Source, Writer, read_records, records_of
from medvista_jax.data.trajectories.curriculum import write_pass_rates
from medvista_jax.data.trajectories.files import keep_lines
from medvista_jax.data.trajectories.select import Filter, fates_table, judge, pass_rates
from medvista_jax.data.trajectories.spoken import play_scripts, record_of
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.chat_endpoint import ChatEndpoint, EndpointError
from medvista_jax.environment.episodes import Episodes, Reply, choose_tools
from medvista_jax.environment.gym import Environment
from medvista_jax.environment.items import find_items
from medvista_jax.environment.play import Game, Table
from medvista_jax.evaluation.setting import Setting, load_policy
from medvista_jax.learning.rewards import PRESETS
from medvista_jax.models.lora_files import load_adapters
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.rollout.host_loop import rollout_with_host
from medvista_jax.rollout.loop import rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.runtime.interrupt import Interrupted, Interrupts
from medvista_jax.runtime.progress import Progress
from medvista_jax.text.chat import Chat, CompactChat
from medvista_jax.text.hub_chat import load_chat


@dataclasses.dataclass(frozen=True)
class Hub:
    """Capacities for a hub folder's policy. `view`: pixels a side of every image, 0 for the model's own choice."""

    view: int = 0
    turn_tokens: int = 256
    prompt_slots: int = 1024
    answer_bytes: int = 64


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """How the endpoint is asked. `dialect`: "native" tool calls, "text", or a dialect by name."""

    dialect: str = "native"
    concurrency: int = 8
    max_tokens: int = 1024
    timeout: float = 120.0
    retries: int = 4
    api_key_env: str = "OPENAI_API_KEY"


@dataclasses.dataclass(frozen=True)
class SampleTrajectories:
    """Every knob. Name one source: `quickstart`, `hub`, `endpoint` or `teach`.

    Attributes:
      quickstart: folder of a quickstart's seed; `stage` says which of its policies.
      hub: folder of a hub model; `adapters` is one of LoRA adapters for it.
      endpoint: address up to and with /v1; `endpoint_model` is the model's name there.
      teach: play the scripted teachers (questions of the atlas only).
      questions: "atlas", a folder or table of questions, or a trajectory file (its questions are asked anew).
      items: the first so many questions.
      families: of questions, all by default.
      tools: on offer; a quickstart's policy has its own.
      samples: of a question, K.
      view: pixels a side of what an endpoint or a teacher sees.
      at_once: questions in a batch.
      reward: the preset whose terms are kept with the outcome of a policy's trajectories.
      keep: what passes the filter.
    """

    quickstart: Path | None = None
    stage: str = "grpo"
    hub: Path | None = None
    adapters: Path | None = None
    endpoint: str = ""
    endpoint_model: str = ""
    teach: bool = False
    out: Path = Path("runs/trajectories")
    resume: bool = False
    questions: str = "atlas"
    split: str = "train"
    items: int = 64
    families: tuple[str, ...] = ()
    tools: tuple[str, ...] = ("zoom_in", "adjust_window")
    turns: int = 3
    samples: int = 8
    temperature: float = 1.0
    seed: int = 0
    view: int = 448
    at_once: int = 16
    reward: str = "vista_r1"
    keep: Filter = Filter()
    setting: Setting = Setting()
    capacities: Hub = Hub()
    asking: Endpoint = Endpoint()
    teacher: TeacherConfig = TeacherConfig()


def find_questions(config: SampleTrajectories) -> list[Any]:
    """Items with question, images and true answer."""
    path = Path(config.questions)
    families = config.families or None
    if path.suffix == ".jsonl" and path.is_file() and b'"source"' in path.open("rb").readline():
        found = {record.id: record for record in read_records(path) if not families or record.family in families}
        return [record.item() for record in list(found.values())[: config.items]]
    split = config.split if config.questions == "atlas" else None
    return list(find_items(config.questions, split, config.items, families))


@dataclasses.dataclass(frozen=True)
class Policy:
    """A checkpoint with all that it plays with."""

    model: VisionLanguageModel
    params: Params
    environment: Environment
    chat: Chat
    pool: QuestionPool
    source: Source


def open_quickstart(config: SampleTrajectories, items: Sequence[Any]) -> Policy:
    """The policy of a stage of the packaged experiment."""
    setting = config.setting
    path = config.quickstart / "policy" / f"{config.stage}.safetensors"
    return Policy(
        setting.model,
        load_policy(path),
        setting.environment,
        CompactChat(setting.tokenizer),
        setting.pool_of(list(items)),
        Source("checkpoint", str(path), temperature=config.temperature),
    )


def open_hub(config: SampleTrajectories, items: Sequence[Any]) -> Policy:
    """A hub folder, with adapters or without."""
    sizes = config.capacities
    model, params = models.load(config.hub, image_size=(sizes.view, sizes.view) if sizes.view else None)
    if config.adapters is not None:
        model, params = load_adapters(config.adapters, model, params)
    chat, tools = load_chat(config.hub), choose_tools(config.tools)
    width = model.tokens_per_image
    environment = build_environment(
        chat.tokenizer,
        tools,
        width,
        model.image_size,
        config.turns,
        sizes.turn_tokens,
        style=chat.frame,
        turn_bytes=8 * sizes.turn_tokens,
        answer_bytes=sizes.answer_bytes,
    )
    families = sorted({item.family for item in items})
    pool = QuestionPool(
        items, families, chat, tools, width, sizes.prompt_slots, config.turns, answer_bytes=sizes.answer_bytes
    )
    name = str(config.hub) + (f" + {config.adapters}" if config.adapters else "")
    return Policy(model, params, environment, chat, pool, Source("checkpoint", name, temperature=config.temperature))


_rollout = jax.jit(rollout, static_argnames=("model", "group"))


@partial(jax.jit, static_argnames=("name",))
def _terms(name: str, trajectory, key):
    return PRESETS[name](trajectory.replace(features_BILE=None), key)


def play_policy(config: SampleTrajectories, policy: Policy, number: int) -> list[Record]:
    """The records of one batch of questions: a pure function of the seed and the batch's number."""
    first = number * config.at_once
    rows = np.arange(first, min(first + config.at_once, len(policy.pool)))
    filled = np.resize(rows, config.at_once)  # the last batch has the shape of the others
    question, answer_key = policy.pool.batch(filled)
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    sampling, log = Sampling.at(config.temperature), None
    model, params, environment = policy.model, policy.params, policy.environment
    if environment.host_tools:
        log = HostLog()
        tokenizer = policy.chat.tokenizer
        trajectory = rollout_with_host(
            model, params, environment, tokenizer, question, key, config.samples, sampling, run=log.run
        )
    else:
        trajectory = _rollout(model, params, environment, question, key, config.samples, sampling)
    reward = _terms(config.reward, trajectory, answer_key)
    records = records_of(
        environment,
        policy.chat,
        [policy.pool.items[row] for row in filled],
        question,
        trajectory,
        dataclasses.replace(policy.source, key=(config.seed, number)),
        split=config.split,
        reward=reward,
        host=log,
    )
    return list(records)[: len(rows) * config.samples]


def play_teacher(config: SampleTrajectories, episodes: Episodes, items: Sequence[Any], number: int) -> list[Record]:
    """The records of one batch of questions, K lessons each."""
    chosen = [item for item in items[number * config.at_once :][: config.at_once] for _ in range(config.samples)]
    rng = np.random.default_rng([config.seed, number])
    scripts = [teach(item, rng, config.teacher, config.tools, config.turns) for item in chosen]
    source = Source("teacher", f"{config.teacher}", key=(config.seed, number))
    played = play_scripts(episodes, chosen, scripts)
    return [
        record_of(episodes, item, *episode, dataclasses.replace(source, row=row), split=config.split)
        for row, (item, episode) in enumerate(zip(chosen, played, strict=True))
    ]


def in_batches(
    config: SampleTrajectories,
    items: Sequence[Any],
    play: Callable[[int], list[Record]],
    progress: Progress,
    interrupts: Interrupts,
) -> None:
    """Batch after batch into OUT/sampled.jsonl; a batch that was not finished is played again."""
    path = config.out / "sampled.jsonl"
    batch = config.at_once * config.samples
    total = len(items) * config.samples
    there = _lines(path)
    done = there if there == total else there // batch * batch
    keep_lines(path, done)
    last = -(-len(items) // config.at_once)
    with Writer(path, append=True) as out, progress.stage("sample", total=total, done=done) as bar:
        for number in range(done // batch, last) if done < total else ():
            records = play(number)
            for record in records:
                out.write(record)
            right = np.mean([record.outcome.correct for record in records])
            bar.advance(len(records), right=f"{right:.0%}")
            if interrupts.requested and out.count + done < total:
                raise interrupts.stopped(f"stopped; {out.count + done} of {total} trajectories are kept")


class Kept:
    """Finished episodes with an endpoint, as records."""

    def __init__(self, out: Writer, episodes: Episodes, source: Source, split: str) -> None:
        self._out, self._episodes, self._source, self._split = out, episodes, source, split

    def add(self, game: Game, reply: Reply) -> Record:
        item: Sample = game.item
        source = dataclasses.replace(self._source, row=item.number)
        record = record_of(self._episodes, item.item, game.said, game.heard, source, self._split)
        self._out.write(record)
        return record


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A question for the ``number``-th time; all else is the question's."""

    item: Any
    number: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.item, name)


def ask_endpoint(config: SampleTrajectories, items: Sequence[Any], progress: Progress, interrupts: Interrupts) -> None:
    """Episodes as they finish into OUT/sampled.jsonl; those whose requests failed are tried again by --resume."""
    asking, path = config.asking, config.out / "sampled.jsonl"
    body = {"temperature": config.temperature, "max_tokens": asking.max_tokens}
    key = os.environ.get(asking.api_key_env)
    endpoint = ChatEndpoint(config.endpoint, config.endpoint_model, key, asking.timeout, asking.retries, body=body)
    tools = choose_tools(config.tools)
    asked = [Sample(item, number) for item in items for number in range(config.samples)]
    episodes = Episodes(tools, min(asking.concurrency, len(asked)), config.view, config.turns)
    source = Source(
        "endpoint", f"{config.endpoint} {config.endpoint_model}", asking.dialect, temperature=config.temperature
    )
    with Writer(path, append=True) as out:
        done = {(record.id, record.source.row) for record in read_records(path)}
        left = [place for place, one in enumerate(asked) if (one.item.id, one.number) not in done]
        with progress.stage("sample", total=len(asked), done=len(done)) as bar:
            right = 0

            def heard(record: Record | None, failure: str) -> None:
                nonlocal right
                if record is None:
                    progress.note(f"failed: {failure}")
                else:
                    right += bool(record.outcome.correct)
                bar.advance(right=right)

            kept = Kept(out, episodes, source, config.split)
            table = Table(episodes, endpoint, asking.dialect, kept, heard, lambda: interrupts.requested)
            outcome = table.play(asked, left)
    if outcome.stopped:
        raise interrupts.stopped(f"stopped; {len(done) + out.count} of {len(asked)} trajectories are kept")
    if outcome.failed:
        progress.note(f"{len(outcome.failed)} episodes failed; --resume tries them again")


def _lines(path: Path) -> int:
    """Whole lines of a file."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        return sum(line.endswith(b"\n") for line in file)


def sample(config: SampleTrajectories, items: Sequence[Any], progress: Progress, interrupts: Interrupts) -> None:
    """Plays whatever is not there yet."""
    if config.endpoint:
        ask_endpoint(config, items, progress, interrupts)
        return
    if config.teach:
        rows = min(config.at_once, len(items)) * config.samples
        episodes = Episodes(choose_tools(config.tools), rows, config.view, config.turns)
        play = partial(play_teacher, config, episodes, items)
    else:
        policy = open_quickstart(config, items) if config.quickstart else open_hub(config, items)
        play = partial(play_policy, config, policy)
    in_batches(config, items, play, progress, interrupts)


def finish(config: SampleTrajectories) -> str:
    """Pass rates, what is kept, and the table."""
    path = config.out / "sampled.jsonl"
    rates = pass_rates(read_records(path))
    write_pass_rates(config.out / "pass_rates.jsonl", rates)
    fates: dict[str, collections.Counter] = {}
    with Writer(config.out / "trajectories.jsonl") as out:
        for record, reason in judge(read_records(path), config.keep, rates):
            fates.setdefault(record.family, collections.Counter())[reason] += 1
            if not reason:
                out.write(record)
    table = fates_table(fates)
    about = f"{out.count} of {sum(map(sum, (counts.values() for counts in fates.values())))} trajectories are kept"
    (config.out / "table.md").write_text(f"{about} ({config.keep}).\n\n{table}\n", encoding="utf-8")
    named = {family: {reason or "kept": n for reason, n in counts.items()} for family, counts in fates.items()}
    (config.out / "table.json").write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")
    return f"{table}\n\n{about}: {config.out / 'trajectories.jsonl'}"


def identity(config: SampleTrajectories) -> dict[str, str]:
    """What has to be the same for a run to go on: all but where it is, how it is filtered and how it is hurried."""
    free = ("out", "resume", "keep", "asking")
    return {f.name: str(getattr(config, f.name)) for f in dataclasses.fields(config) if f.name not in free}


def prepare(config: SampleTrajectories) -> None:
    """The folder, and whether it may be gone on with.

    Raises:
      ValueError: no source or several, or a folder with another run's samples.
    """
    sources = [name for name in ("quickstart", "hub", "endpoint", "teach") if getattr(config, name)]
    if len(sources) != 1:
        named = ", ".join(f"--{name}" for name in sources) or "none"
        raise ValueError(f"name one source: --quickstart, --hub, --endpoint or --teach; given: {named}")
    if config.endpoint and not config.endpoint_model:
        raise ValueError("--endpoint needs --endpoint-model, the model's name there")
    if config.adapters and not config.hub:
        raise ValueError("--adapters are for a --hub folder")
    if config.teach and config.questions != "atlas":
        raise ValueError("--teach knows the questions of the atlas only")
    if min(config.samples, config.at_once, config.items) < 1:
        raise ValueError("--samples, --at-once and --items are at least 1")
    if config.reward not in PRESETS:
        raise ValueError(f"no reward {config.reward!r}; there are {', '.join(PRESETS)}")
    before, there = config.out / "setting.json", config.out / "sampled.jsonl"
    if there.exists() and not config.resume:
        raise ValueError(f"{there} is there: go on with --resume, or name another --out")
    config.out.mkdir(parents=True, exist_ok=True)
    mine = identity(config)
    was = json.loads(before.read_text(encoding="utf-8")) if there.exists() and before.exists() else mine
    for name in mine.keys() & was.keys():
        if mine[name] != was[name]:
            raise ValueError(f"{there} was sampled with {name}={was[name]}, not {mine[name]}; name another --out")
    before.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    config = tyro.cli(SampleTrajectories, description=__doc__)
    enable_compile_cache()
    try:
        prepare(config)
        items = find_questions(config)
        with Interrupts() as interrupts, Progress() as progress:
            sample(config, items, progress, interrupts)
        print(finish(config))
    except Interrupted as stop:
        again = [*sys.argv, *([] if config.resume else ["--resume"])]
        print(f"\n{stop.args[0]}. Go on with:  python {' '.join(again)}", file=sys.stderr)
        return stop.exit_code
    except (EndpointError, MissingSource, OSError, ValueError) as error:
        print(f"sample_trajectories: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
