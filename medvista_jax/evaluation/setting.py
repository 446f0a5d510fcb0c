"""The packaged setting: `medvista-tiny` on the atlas. Whoever replays a run rebuilds it from these few numbers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from medvista_jax.core.types import Params
from medvista_jax.data.atlas import Atlas
from medvista_jax.data.questions import QuestionPool
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.gym import Environment
from medvista_jax.learning.state import join
from medvista_jax.models.medvista_tiny import MedVistaTiny, MedVistaTinyConfig
from medvista_jax.text.chat import CompactChat
from medvista_jax.text.tokenizer import SentencePieceTokenizer
from medvista_jax.tools.base import Tool
from medvista_jax.tools.noise import Noise, noisy
from medvista_jax.tools.registry import ALL_TOOLS, DEFAULT_TOOLS

FAMILY_WEIGHTS: Mapping[str, float] = {"implant_shape": 5.0, "implant_stripes": 5.0, "same_shape": 1.5}
"""Share of a family in the training questions; 1 where it is not named."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Capacities of the environment and of prompts; see :class:`medvista_jax.environment.gym.Environment`."""

    turns: int = 3
    turn_tokens: int = 40
    prompt_slots: int = 56

    @functools.cached_property
    def tokenizer(self) -> SentencePieceTokenizer:
        return SentencePieceTokenizer()

    @functools.cached_property
    def tools(self) -> tuple[Tool, ...]:
        """What prompts offer."""
        return tuple(DEFAULT_TOOLS.values())

    @functools.cached_property
    def model(self) -> MedVistaTiny:
        return MedVistaTiny(MedVistaTinyConfig(vocab_size=self.tokenizer.vocab_size))

    @functools.cached_property
    def environment(self) -> Environment:
        return build_environment(
            self.tokenizer,
            list(self.tools),
            self.model.tokens_per_image,
            self.model.image_size,
            self.turns,
            self.turn_tokens,
        )

    def pool(self, split: str, items: int, weights: Mapping[str, float] | None = None) -> QuestionPool:
        """The first ``items`` questions of a split, families in the given proportions."""
        atlas = Atlas(split)
        shares = {name: (weights or {}).get(name, 1.0) for name in atlas.families}
        return self.pool_of([atlas.item(*pair) for pair in atlas.plan(items, shares)])

    def pool_by_id(self, ids: list[str]) -> QuestionPool:
        """The questions of these ids, ``split/family/index``."""
        items = []
        for name in ids:
            split, family, index = name.split("/")
            items.append(Atlas(split).item(family, int(index)))
        return self.pool_of(items)

    def pool_of(self, items: list) -> QuestionPool:
        """A pool of given items."""
        return QuestionPool(
            items,
            Atlas("train").families,
            CompactChat(self.tokenizer),
            list(self.tools),
            self.model.tokens_per_image,
            self.prompt_slots,
            self.turns,
        )


@dataclasses.dataclass(frozen=True)
class VariedSetting(Setting):
    """The packaged setting with other tools, tools that miss, or views of another size.

    Attributes:
      tool_names: names in :data:`medvista_jax.tools.registry.ALL_TOOLS`.
      noise: of every tool.
      image: pixels a side of what the model sees of an image, a multiple of 16.

    Raises:
      ValueError: an unknown tool, or a size that the model cannot cut into patches.
    """

    tool_names: tuple[str, ...] = tuple(DEFAULT_TOOLS)
    noise: Noise = Noise()
    image: int = MedVistaTinyConfig.image

    def __post_init__(self) -> None:
        if unknown := [name for name in self.tool_names if name not in ALL_TOOLS]:
            raise ValueError(f"no tool {', '.join(unknown)}; there are {', '.join(ALL_TOOLS)}")
        if self.image < 16 or self.image % 16:
            raise ValueError(f"image {self.image} must be a multiple of 16: an embedding stands for 16 pixels a side")

    @functools.cached_property
    def tools(self) -> tuple[Tool, ...]:
        return tuple(noisy(ALL_TOOLS[name], self.noise) for name in self.tool_names)

    @functools.cached_property
    def model(self) -> MedVistaTiny:
        return MedVistaTiny(MedVistaTinyConfig(vocab_size=self.tokenizer.vocab_size, image=self.image))


def save_policy(path: Path, trainable: dict, frozen: dict) -> None:
    """Both halves of the parameters as one ``safetensors`` file, float32, names ``path/to/leaf``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.asarray(leaf) for name, leaf in {**trainable, **frozen}.items()}, path)


def load_policy(path: Path) -> Params:
    """Nested parameters from a file of :func:`save_policy`.

    Raises:
      FileNotFoundError: with the path and what to do.
    """
    if not path.exists():
        raise FileNotFoundError(f"no policy at {path}; has the run finished this stage?")
    return join({name: jnp.asarray(leaf) for name, leaf in load_file(path).items()}, {})
