"""Gymnasium's door: text in, text and pixels out.

    import gymnasium, medvista_jax.environment
    env = gymnasium.make("MedVista-v0", questions="atlas", render_mode="ansi")
    observation, info = env.reset(seed=0)  # observation["text"] is the question, info["system"] offers the tools
    observation, reward, terminated, truncated, info = env.step("<answer>left</answer>")

``gymnasium.make_vec("MedVista-v0", num_envs=8)`` steps eight episodes in one compiled program.

- An action is a turn. ``step`` takes any string, longer ones and any Unicode included; of more than 4096 bytes the last
  ones are read. The space's samples are printable ASCII.
- An observation is ``text`` (the question, then what stands inside the tool response), ``images``: every image so far,
  uint8 ``[I, h, w, 3]``, zeros behind the last, grey ones with three equal channels, and ``count``, how many there are.
- The reward is 1 for a right answer in the normal form of :mod:`medvista_jax.text.normalise`, else 0.
- ``terminated``: the policy has answered. ``truncated``: it ran out of turns without an answer.
- ``info`` tells how the turn was understood: kind, tool, fault, final (the next turn must answer); and when the episode
  is over answer, key and correct. The key is in no observation, and in no ``info`` before.
"""

from __future__ import annotations

import os
import string
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from PIL import Image

from medvista_jax.environment.episodes import TURN_BYTES, TURNS, AnyTool, Episodes, Opening, Reply
from medvista_jax.environment.items import AnyItem, find_items, pictures_of
from medvista_jax.text.chat import system_text

TEXT_LENGTH = 2**16
"""Characters of the longest text of an observation."""

_LOOKED_AT = 64  # items whose images are counted
_GAP = 4  # pixels between images of a rendering

Observation = dict[str, Any]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


class UnicodeText(spaces.Text):
    """Any string of at most ``max_length`` characters; samples are printable ASCII.

    ``spaces.Text`` wants its characters listed, and Unicode has a million.
    """

    def __init__(self, max_length: int, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(max_length, min_length=0, charset=string.printable, seed=seed)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"


class _Rows:
    """Episodes and what Gymnasium wants to know of them, a row each; the two environments differ in how they ask."""

    def __init__(
        self,
        rows: int,
        questions: str | os.PathLike | Sequence[AnyItem] = "atlas",
        split: str | None = None,
        items: int | None = None,
        families: Sequence[str] | None = None,
        tools: str | Sequence[str | AnyTool] | None = None,
        view_size: int | tuple[int, int] = 448,
        turns: int = TURNS,
        max_calls: int | None = None,
        max_images: int | None = None,
        originals: int | None = None,
        pil_images: bool = False,
        buckets: Sequence[int] | None = None,
    ) -> None:
        self.items = find_items(questions, split, items, families)
        self.episodes = Episodes(tools, rows, view_size, turns, max_calls, max_images, buckets=buckets)
        if originals is None:
            looked = range(min(len(self.items), 1 if questions == "atlas" else _LOOKED_AT))
            originals = max(len(pictures_of(self.items[index])) for index in looked)
        self.originals = originals
        self.pil_images = pil_images
        self.system = system_text([tool.spec for tool in self.episodes.tools], "qwen")
        slots, size = originals + self.episodes.max_turns - 1, self.episodes.environment.view_size
        self.observation_space = spaces.Dict(
            {
                "text": UnicodeText(TEXT_LENGTH),
                "images": spaces.Box(0, 255, (slots, *size, 3), np.uint8),
                "count": spaces.Discrete(slots + 1),
            }
        )
        self.action_space = UnicodeText(TURN_BYTES)
        self._images: list[list[np.ndarray]] = [[] for _ in range(rows)]
        self._said: list[list[str]] = [[] for _ in range(rows)]
        self._keys: list[str] = [""] * rows

    def reset(
        self, row: int, rng: np.random.Generator, options: Mapping[str, Any] | None
    ) -> tuple[Observation, dict[str, Any]]:
        """A fresh episode on a drawn item, or on ``options["item"]``."""
        index = (options or {}).get("item")
        if index is None:
            index = int(rng.integers(len(self.items)))
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < len(self.items):
            raise ValueError(f"options['item'] is {index!r}; an index from 0 to {len(self.items) - 1} is wanted")
        item = self.items[index]
        opening: Opening = self.episodes.start(row, item)
        if len(opening.images) > self.originals:
            self.episodes.drop(row)
            raise ValueError(
                f"item {item.id!r} has {len(opening.images)} images; say originals={len(opening.images)} when making "
                "the environment"
            )
        self._images[row] = [_three(image) for image in opening.images]
        self._said[row] = [f"question: {opening.text}"]
        self._keys[row] = item.answer
        info = {"item": item.id, "index": int(index), "system": self.system, "final": opening.final}
        return self._observation(row, opening.text), self._with_images(row, info)

    def step(self, actions: Mapping[int, str]) -> dict[int, Step]:
        """One turn of each row that is named."""
        for action in actions.values():
            if not isinstance(action, str):
                raise TypeError(f"an action is a string, the policy's turn; got {type(action).__name__}")
        over = sorted(set(actions) - self.episodes.running)
        if over:
            raise gymnasium.error.ResetNeeded(f"the episode of row {over[0]} is over; call reset()")
        return {row: self._step(row, actions[row], reply) for row, reply in self.episodes.step(actions).items()}

    def _step(self, row: int, action: str, reply: Reply) -> Step:
        self._said[row].append(f"policy: {action}")
        if reply.text:
            self._said[row].append(f"gym: {reply.text}")
        if reply.image is not None:
            self._images[row].append(_three(reply.image))
        info: dict[str, Any] = {
            "kind": reply.kind.name.lower(),
            "tool": reply.tool,
            "fault": reply.fault.name.lower(),
            "final": reply.final,
        }
        if reply.done:
            info |= {"answer": reply.answer, "key": self._keys[row], "correct": bool(reply.correct)}
            self._said[row].append("over: " + ("right" if reply.correct else f"wrong, the answer is {self._keys[row]}"))
        terminated, truncated = reply.done and not reply.truncated, reply.truncated
        reward = 1.0 if reply.correct else 0.0
        return self._observation(row, reply.text), reward, terminated, truncated, self._with_images(row, info)

    def _observation(self, row: int, text: str) -> Observation:
        space = self.observation_space["images"]
        images = np.zeros(space.shape, np.uint8)
        shown = self._images[row]
        images[: len(shown)] = shown
        return {"text": text[:TEXT_LENGTH], "images": images, "count": len(shown)}

    def _with_images(self, row: int, info: dict[str, Any]) -> dict[str, Any]:
        return info | {"images": [Image.fromarray(image) for image in self._images[row]]} if self.pil_images else info

    def render(self, row: int, mode: str | None) -> np.ndarray | str | None:
        """``"rgb_array"``: the images so far side by side, as wide as all there can be; ``"ansi"``: what was said."""
        if mode == "ansi":
            return "\n".join(self._said[row]) + "\n"
        if mode is None:
            return None
        slots, height, width, _ = self.observation_space["images"].shape
        canvas = np.zeros((height, slots * (width + _GAP) - _GAP, 3), np.uint8)
        for slot, image in enumerate(self._images[row]):
            canvas[:, slot * (width + _GAP) :][:, :width] = image
        return canvas


def _three(image_hwC: np.ndarray) -> np.ndarray:
    return np.broadcast_to(image_hwC, (*image_hwC.shape[:2], 3))


def _checked(mode: str | None) -> str | None:
    if mode not in (None, *MedVistaEnv.metadata["render_modes"]):
        raise ValueError(f"render_mode {mode!r} is not one of 'rgb_array', 'ansi'")
    return mode


class MedVistaEnv(gymnasium.Env[Observation, str]):
    """One episode at a time, see the module.

    Args:
      render_mode: ``"rgb_array"``, ``"ansi"`` or None.
      questions: ``"atlas"``, a path that :mod:`medvista_jax.data.files` reads, or a sequence of items
        (:class:`medvista_jax.environment.items.Item`).
      split, items, families: which of them, see :func:`medvista_jax.environment.items.find_items`.
      tools: names, tools, paths of Python files; by default every tool that needs nothing but the image.
      view_size, turns, max_calls, max_images, buckets: see :class:`medvista_jax.environment.episodes.Episodes`.
      originals: the most images of one question; by default counted among the first 64.
      pil_images: whether ``info["images"]`` holds the images as Pillow's.

    ``reset(seed=…)`` draws the same items in the same order; ``reset(options={"item": k})`` begins item k.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 1}

    def __init__(self, render_mode: str | None = None, **questions_and_budgets: Any) -> None:
        self.render_mode = _checked(render_mode)
        self._rows = _Rows(1, **questions_and_budgets)
        self.observation_space, self.action_space = self._rows.observation_space, self._rows.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        return self._rows.reset(0, self.np_random, options)

    def step(self, action: str) -> Step:
        return self._rows.step({0: action})[0]

    def render(self) -> Any:
        return self._rows.render(0, self.render_mode)


class MedVistaVectorEnv(VectorEnv):
    """``num_envs`` episodes in one compiled program; as many :class:`MedVistaEnv` do the same, step for step.

    Autoreset is Gymnasium's default, next step: the step behind an episode's end begins another one in its row and does
    not look at its action. Arguments are those of :class:`MedVistaEnv`. ``reset(seed=s)`` seeds row k with s + k; a
    list has a seed a row; ``options["reset_mask"]``, bool ``[num_envs]``, says which rows begin anew.
    """

    metadata = {**MedVistaEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs: int = 1, render_mode: str | None = None, **questions_and_budgets: Any) -> None:
        self.num_envs = num_envs
        self.render_mode = _checked(render_mode)
        self._rows = _Rows(num_envs, **questions_and_budgets)
        self.single_observation_space = self._rows.observation_space
        self.single_action_space = self._rows.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._seen: list[Observation | None] = [None] * num_envs
        self._over = np.ones(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        if isinstance(seed, int | np.integer):
            seeds: list[int | None] = [int(seed) + row for row in range(self.num_envs)]
        else:
            seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(f"options['reset_mask'] must be bool [{self.num_envs}] with one True at least")
        infos: dict[str, Any] = {}
        for row in np.flatnonzero(mask).tolist():
            infos = self._add_info(infos, self._reset_row(row, seeds[row], options), row)
        return self._stacked(), infos

    def _reset_row(self, row: int, seed: int | None, options: Mapping[str, Any] | None) -> dict[str, Any]:
        if seed is not None or self._rngs[row] is None:
            self._rngs[row], _ = seeding.np_random(seed)
        self._seen[row], info = self._rows.reset(row, self._rngs[row], options)
        self._over[row] = False
        return info

    def step(self, actions: Sequence[str]) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions for {self.num_envs} environments")
        if None in self._seen:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        rewards = np.zeros(self.num_envs, np.float64)
        terminations, truncations = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        stepped = self._rows.step({row: actions[row] for row in range(self.num_envs) if not self._over[row]})
        infos: dict[str, Any] = {}
        for row in range(self.num_envs):
            if row in stepped:
                self._seen[row], rewards[row], terminations[row], truncations[row], info = stepped[row]
            else:
                info = self._reset_row(row, None, None)
            infos = self._add_info(infos, info, row)
        self._over = terminations | truncations
        return self._stacked(), rewards, terminations, truncations, infos

    def _stacked(self) -> Observation:
        empty = create_empty_array(self.single_observation_space, self.num_envs, fn=np.zeros)
        return concatenate(self.single_observation_space, self._seen, empty)

    def render(self) -> tuple[Any, ...] | None:
        if self.render_mode is None:
            return None
        return tuple(self._rows.render(row, self.render_mode) for row in range(self.num_envs))
