"""Teach a hub model to think with images, on as many chips and hosts as there are: SFT on trajectories, then GRPO.

    python experiments/sample_trajectories.py --teach --samples 1 --items 2000 --out runs/lessons
    python experiments/train.py --model FOLDER --mesh fsdp=4,tensor=4 --sft.trajectories runs/lessons/trajectories.jsonl
    python experiments/train.py … --checkpoints gs://BUCKET/run  # the same command on every host of a slice
    python experiments/train.py … --questions FOLDER --tools zoom_in flip --grpo.reward deepeyes
    python experiments/train.py … --lora-rank 32                 # adapters instead of the decoder
    python experiments/train.py … --resume                       # go on after Ctrl-C, a lost host or a pre-emption

Questions are the atlas' (real images from packages, some with implanted targets) or those of a folder or table. Without
--sft.trajectories GRPO starts from the model as it is; with --grpo.optimizer.steps 0 there is SFT only. The defaults
are those of the plans that `python -m medvista_jax.runtime.aot` compiles: four turns, 256 trajectories a step.

Writes OUT/metrics.jsonl, OUT/checkpoints, and OUT/model, the trained model in the hub's layout (adapters are merged).
Every host needs MODEL and the questions; the first one writes OUT. Checkpoints must lie where all hosts see them.
"""

from __future__ import annotations

import dataclasses
import io
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from etils import epath

from medvista_jax import models
from medvista_jax.data.questions import QuestionPool
from medvista_jax.data.sources import MissingSource
from medvista_jax.data.trajectories import TrajectoryPool, read_records
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.episodes import choose_tools
from medvista_jax.environment.gym import Environment
from medvista_jax.environment.items import find_items
from medvista_jax.learning.grpo import GRPOConfig, grpo_step
from medvista_jax.learning.placement import state_shardings
from medvista_jax.learning.rewards import PRESETS
from medvista_jax.learning.sft import SFTConfig, sft_update
from medvista_jax.learning.state import FlatParams, OptimizerConfig, TrainState, join, start
from medvista_jax.models.lora import TRAINABLE, LoRAConfig, init_lora, merge, with_lora
from medvista_jax.models.names import flatten, nest
from medvista_jax.models.tensor_files import BadCheckpoint
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.rollout.record import total_slots
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.checkpoints import CheckpointError
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.runtime.hosts import host_batch, is_first, run_on_hosts
from medvista_jax.runtime.interrupt import Interrupted, Interrupts
from medvista_jax.runtime.mesh import MeshError, describe, make_mesh, parse_mesh
from medvista_jax.runtime.metrics import MetricsLog
from medvista_jax.runtime.profile import Profile
from medvista_jax.runtime.progress import Progress
from medvista_jax.runtime.stages import NotFinite, Stage, fingerprint, run_stage
from medvista_jax.text.hub_chat import HubChat, load_chat


@dataclasses.dataclass(frozen=True)
class Game:
    """What is played. `view`: pixels a side of every image, 0 for the model's own choice. `families`: of questions, all
    by default. `turn_tokens`, `prompt_slots`, `answer_bytes`: capacities."""

    questions: str = "atlas"
    split: str = "train"
    items: int = 2000
    families: tuple[str, ...] = ()
    tools: tuple[str, ...] = ("zoom_in", "adjust_window")
    turns: int = 4
    turn_tokens: int = 256
    prompt_slots: int = 1024
    answer_bytes: int = 64
    view: int = 0


@dataclasses.dataclass(frozen=True)
class SFTStage:
    """`trajectories`: a file of `sample_trajectories.py` or of `python -m medvista_jax.data.trajectories convert`.
    `chunk`: trajectories at a time; 0 is one for each slice of the rows, data times fsdp."""

    trajectories: Path | None = None
    batch: int = 64
    chunk: int = 0
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-5, steps=200)


@dataclasses.dataclass(frozen=True)
class GRPOStage:
    """`prompts` times `group` trajectories a step. `chunk`: of them at a time in the update; as for SFT. `reward`: a
    preset."""

    prompts: int = 32
    group: int = 8
    chunk: int = 0
    reward: str = "vista_r1"
    temperature: float = 1.0
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-6, steps=200)


@dataclasses.dataclass(frozen=True)
class Train:
    """Every knob.

    Attributes:
      model: folder in the hub's layout.
      checkpoints: folder or bucket that all hosts see; OUT/checkpoints by default.
      mesh: axes data, fsdp, tensor; -1 takes what is left of the devices.
      lora_rank, lora_alpha: of the adapters that learn; with rank 0 the whole decoder does.
      remat: what the update keeps of a layer: "none", "full" or a name of medvista_jax.models.blocks.REMAT.
      save_every: steps between checkpoints.
      profile: trace two steps of GRPO into OUT/profile.
    """

    model: Path
    out: Path = Path("runs/train")
    checkpoints: str = ""
    mesh: str = "fsdp=-1"
    seed: int = 0
    resume: bool = False
    profile: bool = False
    save_every: int = 20
    remat: str = "full"
    lora_rank: int = 0
    lora_alpha: float = 32.0
    game: tyro.conf.OmitArgPrefixes[Game] = Game()
    sft: SFTStage = SFTStage()
    grpo: GRPOStage = GRPOStage()


@dataclasses.dataclass
class Run:
    """What both stages share."""

    config: Train
    model: VisionLanguageModel
    mesh: jax.sharding.Mesh
    progress: Progress
    interrupts: Interrupts
    metrics: MetricsLog

    @cached_property
    def chat(self) -> HubChat:
        return load_chat(self.config.model)

    @cached_property
    def tools(self) -> list[Any]:
        return list(choose_tools(self.config.game.tools))

    @cached_property
    def environment(self) -> Environment:
        game = self.config.game
        return build_environment(
            self.chat.tokenizer,
            self.tools,
            self.model.tokens_per_image,
            self.model.image_size,
            game.turns,
            game.turn_tokens,
            style=self.chat.frame,
            turn_bytes=8 * game.turn_tokens,
            answer_bytes=game.answer_bytes,
        )

    @cached_property
    def questions(self) -> QuestionPool:
        game = self.config.game
        split = game.split if game.questions == "atlas" else None
        items = list(find_items(game.questions, split, game.items, game.families or None))
        families = sorted({item.family for item in items})
        width, slots = self.model.tokens_per_image, game.prompt_slots
        return QuestionPool(
            items, families, self.chat, self.tools, width, slots, game.turns, answer_bytes=game.answer_bytes
        )

    @cached_property
    def lessons(self) -> TrajectoryPool:
        path, problems = self.config.sft.trajectories, []
        slots = total_slots(self.environment, self.config.game.prompt_slots)
        pool = TrajectoryPool(
            list(read_records(path)), self.model, self.environment, self.chat, slots, problems=problems
        )
        if problems:
            self.progress.note(f"{len(problems)} trajectories of {path} do not fit, the first: {problems[0]}")
        return pool

    @property
    def slices(self) -> int:
        """Into how many the rows of a batch fall."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def learns(self) -> tuple[str, ...]:
        return (TRAINABLE,) if self.config.lora_rank else ("^decoder",)

    def begin(self, leaves: FlatParams, stage: OptimizerConfig, key: int) -> TrainState:
        """A state where the mesh wants it: masters and moments in float32, all else as it was loaded."""
        optimizer = stage.build()

        def begin(leaves: FlatParams) -> TrainState:
            state = start(join(leaves, {}), self.learns, optimizer, jax.random.key(key))
            raised = {path: leaf.astype(jnp.float32) for path, leaf in state.trainable.items()}
            return state.replace(trainable=raised, optimizer=optimizer.init(raised))

        where = state_shardings(self.model, jax.eval_shape(begin, leaves), self.mesh)
        return jax.jit(begin, out_shardings=where)(leaves)

    def stage(self, stage: Stage, state: TrainState, profile: Profile | None = None) -> TrainState:
        """:func:`run_stage` with what is common to both."""
        return run_stage(
            stage,
            state,
            epath.Path(self.config.checkpoints or self.config.out / "checkpoints"),
            progress=self.progress,
            metrics=self.metrics,
            interrupts=self.interrupts,
            resume=self.config.resume,
            profile=profile,
        )


def train_sft(run: Run, state: TrainState) -> TrainState:
    """Stage 1: the teacher's tokens."""
    config, stage = run.config, run.config.sft
    optimizer = stage.optimizer.build()
    static = SFTConfig(
        buckets=(), chunk=stage.chunk or run.slices, remat=config.remat, scan_layers=not config.lora_rank
    )
    pool = run.lessons

    def batch(number: int):
        drawn = np.random.default_rng([config.seed, 1, number]).integers(0, len(pool), stage.batch)
        load = lambda _, rows: jax.tree.map(np.asarray, pool.batch(drawn[rows]))  # noqa: E731
        return host_batch(load, number, stage.batch, run.mesh)

    step = lambda state, batch: sft_update(run.model, optimizer, static, state, *batch)  # noqa: E731
    identity = fingerprint([*parents(config), stage])
    return run.stage(Stage("sft", stage.optimizer.steps, identity, step, batch, save_every=config.save_every), state)


def train_grpo(run: Run, state: TrainState) -> TrainState:
    """Stage 2: own episodes, paid by the reward."""
    config, stage = run.config, run.config.grpo
    optimizer = stage.optimizer.build()
    static = GRPOConfig(
        group=stage.group,
        reward=stage.reward,
        buckets=(),
        chunk=stage.chunk or run.slices,
        remat=config.remat,
        scan_layers=not config.lora_rank,
    )
    pool = run.questions

    def batch(number: int):
        drawn = np.random.default_rng([config.seed, 2, number]).integers(0, len(pool), stage.prompts)
        return host_batch(lambda _, rows: pool.batch(drawn[rows]), number, stage.prompts, run.mesh)

    sampling = Sampling.at(stage.temperature)
    step = lambda state, batch: grpo_step(  # noqa: E731
        run.model, optimizer, static, run.environment, state, *batch, sampling
    )
    return run.stage(
        Stage(
            "grpo",
            stage.optimizer.steps,
            fingerprint([*parents(config), config.sft if config.sft.trajectories else None, stage]),
            step,
            batch,
            shown=("reward", "accuracy", "calls_per_question"),
            save_every=config.save_every,
        ),
        state,
        Profile(config.out / "profile") if config.profile else None,
    )


def parents(config: Train) -> list[Any]:
    """What decides the state before a stage, for fingerprints."""
    return [str(config.model.resolve()), config.seed, config.game, config.lora_rank, config.lora_alpha]


def load(config: Train, mesh: jax.sharding.Mesh, progress: Progress) -> tuple[VisionLanguageModel, FlatParams]:
    """The model and its parameters where the mesh wants them, with fresh adapters where those are asked for."""
    side = config.game.view
    progress.note(f"loading {config.model}")
    model, params = models.load(config.model, mesh=mesh, image_size=(side, side) if side else None)
    if config.lora_rank:
        model = with_lora(model, LoRAConfig(config.lora_rank, config.lora_alpha))
        params = init_lora(model, params, jax.random.key(config.seed))
    return model, flatten(params)


def save(run: Run, leaves: FlatParams, dtypes: dict[str, Any]) -> Path:
    """OUT/model, every tensor in the dtype that it was loaded in; a model that is there already stays."""
    folder = run.config.out / "model"
    if (folder / "config.json").exists():
        run.progress.note(f"{folder} is there already and stays; remove it to have it written again")
        return folder
    model, params = run.model, nest({path: leaf.astype(dtypes[path]) for path, leaf in leaves.items()})
    if run.config.lora_rank:
        model, params = merge(model, params)
    models.save(model, params, folder)
    return folder


def check(config: Train) -> None:
    """Raises ValueError for what would be found out late."""
    if config.grpo.reward not in PRESETS:
        raise ValueError(f"--grpo.reward {config.grpo.reward!r} is unknown; there are {', '.join(PRESETS)}")
    if config.sft.trajectories and not config.sft.trajectories.is_file():
        raise ValueError(f"--sft.trajectories {config.sft.trajectories} is no file; sample_trajectories.py makes one")
    if not config.sft.trajectories and not config.grpo.optimizer.steps:
        raise ValueError("nothing to do: no --sft.trajectories and no steps of GRPO")
    if config.lora_rank < 0:
        raise ValueError(f"--lora-rank {config.lora_rank} must be 0 (none) or more")


def run_experiment(config: Train) -> Path:
    """Both stages. Returns the folder of the trained model."""
    check(config)
    enable_compile_cache()
    mesh = make_mesh(parse_mesh(config.mesh))
    with (
        jax.set_mesh(mesh),
        Interrupts() as interrupts,
        Progress(None if is_first() else io.StringIO()) as progress,
        MetricsLog(config.out / "metrics.jsonl", is_first()) as metrics,
    ):
        progress.note(f"{jax.process_count()} hosts, {mesh.size} devices: {describe(dict(mesh.shape))}")
        model, leaves = load(config, mesh, progress)
        dtypes = {path: leaf.dtype for path, leaf in leaves.items()}
        run = Run(config, model, mesh, progress, interrupts, metrics)
        if config.sft.trajectories:
            state = train_sft(run, run.begin(leaves, config.sft.optimizer, config.seed))
            leaves = {**state.trainable, **state.frozen}
        if config.grpo.optimizer.steps:
            state = train_grpo(run, run.begin(leaves, config.grpo.optimizer, config.seed + 1))
            leaves = {**state.trainable, **state.frozen}
        return save(run, leaves, dtypes)


def main() -> int:
    config = tyro.cli(Train, description=__doc__)
    try:
        folder = run_experiment(config)
    except Interrupted as stop:
        if is_first():
            again = [*sys.argv, *([] if config.resume else ["--resume"])]
            print(f"\n{stop.args[0]}. Go on with:  python {' '.join(again)}", file=sys.stderr)
        return stop.exit_code
    except (BadCheckpoint, CheckpointError, MeshError, MissingSource, NotFinite, ValueError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    if is_first():
        print(f"\nThe trained model: {folder}")
    return 0


if __name__ == "__main__":
    run_on_hosts(main)
