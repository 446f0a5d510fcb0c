"""Scripts for conditions that do not leave the first look to the policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medvista_jax.data.teachers import TeacherConfig, answer_turn, random_box, window_turn, zoom_box, zoom_turn


def oracle_look(item, turns: int) -> list[str]:
    """The true crops (or the true window) of an item, then the policy answers; nothing where no tool is needed."""
    if item.needs == "window" and item.good_window is not None:
        return [window_turn(*item.good_window)]
    if item.needs in ("none", "measure"):
        return []
    exact = TeacherConfig(grid=1)
    centres = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in item.targets]
    return [zoom_turn(zoom_box(centre, exact)) for centre in centres[: turns - 1]]


def random_look(item, turns: int, rng: np.random.Generator) -> list[str]:
    """As many crops as :func:`oracle_look` takes, at random places."""
    return [zoom_turn(random_box(rng, TeacherConfig())) for _ in oracle_look(item, turns)]


def forced_look(rng: np.random.Generator) -> list[str]:
    """One crop at a random place, whether or not the item needs one."""
    return [zoom_turn(random_box(rng, TeacherConfig()))]


def random_episode(item, turns: int, rng: np.random.Generator) -> list[str]:
    """A policy that knows the format and nothing else: up to ``turns - 1`` random crops, then a random option."""
    looks = [zoom_turn(random_box(rng, TeacherConfig())) for _ in range(rng.integers(turns))]
    return [*looks, answer_turn(item.options[rng.integers(len(item.options))])]


def encode_script(
    texts: Sequence[Sequence[str]], tokenizer, turns: int, turn_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids ``[P, R, T]`` int32 and lengths ``[P, R]`` of turn texts, as :class:`rollout.loop.Script` takes them.

    Raises:
      ValueError: a turn takes more than ``turn_tokens`` ids.
    """
    tokens = np.zeros((len(texts), turns, turn_tokens), np.int32)
    lengths = np.zeros((len(texts), turns), np.int32)
    for row, episode in enumerate(texts):
        for turn, text in enumerate(episode):
            ids = tokenizer.encode(text)
            if len(ids) > turn_tokens:
                raise ValueError(
                    f"a scripted turn takes {len(ids)} tokens, more than turn_tokens={turn_tokens}: {text}"
                )
            tokens[row, turn, : len(ids)] = ids
            lengths[row, turn] = len(ids)
    return tokens, lengths
