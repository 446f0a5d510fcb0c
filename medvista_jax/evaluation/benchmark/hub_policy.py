"""A model of the hub as a policy: its chat template, our views of the images, the rollout, tools or none."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medvista_jax import models
from medvista_jax.core.types import Params, Question, Trajectory
from medvista_jax.data.files import MedicalImage, load_images
from medvista_jax.data.questions import FileImages
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.episodes import choose_tools
from medvista_jax.environment.gym import Environment
from medvista_jax.evaluation.benchmark.lines import BadRun
from medvista_jax.evaluation.benchmark.policies import Reply
from medvista_jax.evaluation.protocols import Ask
from medvista_jax.learning.placement import place_policy, place_rows
from medvista_jax.models.lora_files import load_adapters
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.rollout.loop import play_rows
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.text.chat import INSTRUCTION
from medvista_jax.text.hub_chat import HubChat, load_chat
from medvista_jax.text.parse import compile_stops
from medvista_jax.tools.registry import DEFAULT_TOOLS

PROMPT_STEP = 128
"""Prompts of a batch are padded to a multiple of this many slots: few compiled programs serve all questions."""


@dataclasses.dataclass(frozen=True)
class Generation:
    """How a model is asked.

    Attributes:
      max_new_tokens: of a whole episode; with tools every turn may take its equal share.
      temperature, top_p, seed: of sampling.
      turns: with tools, the last one of which must answer; without there is one.
      at_once: questions in a batch.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    turns: int = 4
    at_once: int = 8

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.turns, self.at_once) < 1:
            raise ValueError("max_new_tokens, turns and at_once are at least 1")


@dataclasses.dataclass(frozen=True, eq=False)
class _Shown:
    images: tuple[MedicalImage, ...]


@functools.partial(jax.jit, static_argnames=("model",))
def _play(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    question: Question,
    keys_B: jax.Array,
    sampling: Sampling,
) -> Trajectory:
    return play_rows(model, params, environment, question, keys_B, sampling).replace(features_BILE=None)


class HubPolicy:
    """Answers with a model of any hub family. The randomness of a reply depends on the seed and the question alone.

    Without tools the protocol's text is the user's message, the system message is the template's own, and the reply is
    what the model says until it ends its turn. With tools the system message is ours (think, then call or answer) and
    lists them; the reply is the last turn.

    Args:
      folder: hub layout: weights, tokenizer, chat template.
      generation: how it is asked.
      tools: names, see :func:`choose_tools`; empty for none. Tools of the host are not run here.
      adapters: folder of LoRA adapters.
      view: pixels a side of every image; 0 for the family's own choice.
      mesh: devices of this host that share the model (``tensor``) and the questions (``data``, ``fsdp``).

    Raises:
      BadCheckpoint, FileNotFoundError, ValueError: the folder, the adapters or a tool cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        generation: Generation,
        tools: Sequence[str] = (),
        adapters: Path | None = None,
        view: int = 0,
        mesh: Mesh | None = None,
    ) -> None:
        self.model, self.params = models.load(folder, mesh=mesh, image_size=(view, view) if view else None)
        if adapters is not None:
            self.model, self.params = load_adapters(adapters, self.model, self.params)
        if mesh is not None:
            self._mesh = mesh
            self.params = place_policy(self.model, self.params, mesh)
        chat = load_chat(folder)
        self._setup(
            str(folder) + (f" + {adapters}" if adapters else ""), self.model, self.params, chat, generation, tools
        )

    _mesh: Mesh | None = None

    @classmethod
    def of(
        cls,
        name: str,
        model: VisionLanguageModel,
        params: Params,
        chat: HubChat,
        generation: Generation,
        tools: Sequence[str] = (),
    ) -> HubPolicy:
        """The same for parameters in memory, such as a checkpoint in training."""
        policy = cls.__new__(cls)
        policy._setup(name, model, params, chat, generation, tools)
        return policy

    def _setup(
        self,
        name: str,
        model: VisionLanguageModel,
        params: Params,
        chat: HubChat,
        generation: Generation,
        tools: Sequence[str],
    ) -> None:
        offered = choose_tools(tuple(tools)) if tools else ()
        self.name, self.tools = name, tuple(tool.spec.name for tool in offered)
        self.model, self.params, self.chat, self.generation = model, params, chat, generation
        self._specs = [tool.spec for tool in offered]
        turns = generation.turns if offered else 1
        turn_tokens = -(-generation.max_new_tokens // turns)
        environment = build_environment(
            chat.tokenizer,
            # An environment has a tool; without one on offer the budgets of a question switch it off.
            offered or tuple(DEFAULT_TOOLS.values())[:1],
            model.tokens_per_image,
            model.image_size,
            turns,
            turn_tokens,
            style=chat.frame,
            turn_bytes=8 * turn_tokens,
            answer_bytes=256,
        )
        if environment.host_tools:
            names = ", ".join(tool.name for tool in environment.host_tools.values())
            raise ValueError(f"tools of the host ({names}) are not run in a benchmark; leave them out")
        self._ends = turn_ends(chat)
        stops = (*(end.encode() for end in self._ends), *((b"</tool_call>", b"</answer>") if offered else ()))
        self.environment = environment.replace(
            stops=jax.tree.map(jnp.asarray, compile_stops(chat.tokenizer.token_bytes(), stops))
        )

    def about(self) -> dict[str, Any]:
        """What a number must say of how the model was asked."""
        return {
            "view": list(self.model.image_size),
            "tokens_per_image": self.model.tokens_per_image,
            "turns": self.environment.turns,
            "turn_tokens": self.environment.turn_tokens,
            "top_p": self.generation.top_p,
            "dtype": self.model.dtype,
        }

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply to each question; ``generation.at_once`` are played together.

        Raises:
          BadRun: an image cannot be read, or the prompt does not fit the model.
        """
        step = self.generation.at_once
        return [reply for first in range(0, len(asks), step) for reply in self._batch(asks[first : first + step])]

    def _batch(self, asks: Sequence[Ask]) -> list[Reply]:
        filled = [asks[number % len(asks)] for number in range(self.generation.at_once)]
        root = jax.random.key(self.generation.seed)
        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        keys_B = fold(root, np.array([zlib.crc32(f"{ask.set}/{ask.id}".encode()) for ask in filled], np.uint32))
        sampling = Sampling.at(self.generation.temperature, top_p=self.generation.top_p)
        question = self.question(filled)
        with jax.set_mesh(self._mesh) if self._mesh is not None else contextlib.nullcontext():
            if self._mesh is not None:
                question, keys_B = place_rows((question, keys_B))
            played = _play(self.model, self.params, self.environment, question, keys_B, sampling)
        return self._read(jax.tree.map(np.asarray, played))[: len(asks)]

    def question(self, asks: Sequence[Ask]) -> Question:
        """The batch as the compiled program takes it, a row a question.

        Raises:
          BadRun: as :meth:`reply`.
        """
        shown = [_Shown(self._images(ask)) for ask in asks]
        images = FileImages(shown)
        images.channels = 3  # grey ones too: one program for both
        prompts = []
        for ask, one in zip(asks, shown, strict=True):
            embeddings = [self.model.tokens_per_image] * len(one.images)
            system = INSTRUCTION if self._specs else None
            try:
                prompts.append(self.chat.prompt(ask.text, embeddings, self._specs, system))
            except ValueError as error:
                raise BadRun(f"{ask.set} {ask.id}: cannot be put to {self.name}: {error}") from None
        slots = -(-max(len(prompt.tokens) for prompt in prompts) // PROMPT_STEP) * PROMPT_STEP
        tokens = np.full((len(asks), slots), self.chat.tokenizer.pad_id, np.int32)
        valid, feature = np.zeros(tokens.shape, bool), np.full(tokens.shape, -1, np.int32)
        for row, prompt in enumerate(prompts):
            count = len(prompt.tokens)
            tokens[row, :count], feature[row, :count], valid[row, :count] = prompt.tokens, prompt.feature, True
        each = lambda value: np.full(len(asks), value, np.int32)  # noqa: E731
        turns = self.environment.turns
        calls = turns - 1 if self._specs else 0
        return Question(
            tokens, valid, feature, images.bank(np.arange(len(asks))), each(turns), each(calls), each(calls)
        )

    def _images(self, ask: Ask) -> tuple[MedicalImage, ...]:
        try:
            return tuple(
                load_images(data, name=f"image {number} of {ask.id}")[0] for number, data in enumerate(ask.images, 1)
            )
        except ValueError as error:  # BadFile is one
            raise BadRun(f"{ask.set} {ask.id}: {error}") from None

    def _read(self, played: Trajectory) -> list[Reply]:
        """What the policy said in each turn, as text."""
        out = []
        for row in range(len(played.tokens_BS)):
            turns = []
            for turn in range(int(played.turns_B[row])):
                mine = played.sampled_BS[row] & (played.turn_BS[row] == turn)
                turns.append(self._text(played.tokens_BS[row][mine]))
            many = tuple(turns) if self._specs else ()
            out.append(Reply(turns[-1] if turns else "", many, int(played.calls_B[row])))
        return out

    def _text(self, ids: np.ndarray) -> str:
        text = self.chat.tokenizer.decode(ids.tolist())
        ends = "|".join(map(re.escape, self._ends))
        return re.sub(rf"(?:{ends})\s*$", "", text).strip()


def turn_ends(chat: HubChat) -> tuple[str, ...]:
    """Symbols with which the model ends its turn: the tokenizer's end of sequence, and ChatML's."""
    tokenizer = chat.tokenizer
    named = getattr(tokenizer.backend, "special_tokens_map", {}).get("eos_token")
    pad = tokenizer.pad_id
    found = [text for text in (named, "<|im_end|>") if text in tokenizer.special and tokenizer.special[text] != pad]
    if not found:
        raise ValueError("the tokenizer has no symbol that ends a turn: neither an eos_token nor <|im_end|>")
    return tuple(dict.fromkeys(found))
