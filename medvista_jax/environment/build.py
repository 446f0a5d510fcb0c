"""Building an environment: tables from a tokenizer and the tools' specs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Fault
from medvista_jax.environment.gym import Environment
from medvista_jax.text.chat import Frame, Said, Style, build_observations
from medvista_jax.text.constraint import compile_constraint
from medvista_jax.text.grammar import compile_grammar
from medvista_jax.text.parse import compile_stops
from medvista_jax.text.tokenizer import Tokenizer
from medvista_jax.tools.base import Tool
from medvista_jax.tools.host.call import HostTool


def build_environment(
    tokenizer: Tokenizer,
    tools: Sequence[Tool | HostTool],
    tokens_per_image: int,
    view_size: tuple[int, int],
    turns: int = 3,
    turn_tokens: int = 48,
    style: Style | Frame = "compact",
    host_tokens: int = 128,
    turn_bytes: int = 256,
    answer_bytes: int = 64,
    constrained: bool | Literal["answers"] = False,
) -> Environment:
    """An environment whose tables live on the default device.

    Args:
      tokens_per_image: embeddings that a view costs the model, L.
      view_size: h, w of the views that the model reads.
      turns, turn_tokens: capacities R and T; the budgets of a question may be smaller.
      style: of observations; for a hub's chat template its frame, :attr:`medvista_jax.text.hub_chat.HubChat.frame`.
      host_tokens: room for what a host tool says; its text is cut there. Costs nothing without host tools.
      turn_bytes: bytes of a turn that are parsed, from its end.
      answer_bytes: bytes of the longest answer that is kept; a longer one counts as empty.
      constrained: mask the policy's logits, so that every turn is well formed, ends in time, and answers when it must;
        ``"answers"`` does so in turns that must answer and leaves the others free.

    Raises:
      ValueError: no tool, two tools of one name, or no turn.
    """
    names = [tool.spec.name for tool in tools]
    if not names:
        raise ValueError("an environment needs at least one tool; switch tools off by a question's budgets")
    if len(set(names)) < len(names):
        raise ValueError(f"tools must have different names, got {', '.join(names)}")
    if turns < 1 or turn_tokens < 1:
        raise ValueError(f"turns and turn_tokens must be at least 1, got {turns} and {turn_tokens}")
    said, kind_J, image_J = _sayings(tools)
    hosts = any(isinstance(tool, HostTool) for tool in tools)
    token_bytes = tokenizer.token_bytes()
    tables = {
        "grammar": compile_grammar([tool.spec for tool in tools]),
        "templates": build_observations(tokenizer, tokens_per_image, style, said, host_tokens if hosts else 0),
        "token_bytes": token_bytes,
        "stops": compile_stops(token_bytes),
        "kind_J": kind_J,
        "image_J": image_J,
        "constraint": compile_constraint([tool.spec for tool in tools], tokenizer, answer_bytes)
        if constrained
        else None,
    }
    return Environment(
        **jax.tree.map(jnp.asarray, tables),
        tools=tuple(tools),
        turns=turns,
        turn_tokens=turn_tokens,
        turn_bytes=turn_bytes,
        answer_bytes=answer_bytes,
        view_size=view_size,
        tokens_per_image=tokens_per_image,
        pad_id=tokenizer.pad_id,
        force_answer_only=constrained == "answers",
    )


class TokenCost(NamedTuple):
    """What a tool costs a policy, in tokens of its tokenizer.

    Attributes:
      offered: of its schema in a prompt that lists schemas.
      observation: of its longest observation, the returned image and the frame around it included.
    """

    offered: int
    observation: int


def token_costs(
    tokenizer: Tokenizer,
    tools: Sequence[Tool | HostTool],
    tokens_per_image: int,
    style: Style | Frame = "qwen",
    host_tokens: int = 128,
) -> dict[str, TokenCost]:
    """The cost of each tool, by name; the arguments are those of :func:`build_environment`."""
    costs = {}
    for tool in tools:
        said, _, _ = _sayings([tool])
        room = host_tokens if isinstance(tool, HostTool) else 0
        templates = build_observations(tokenizer, tokens_per_image, style, said, room)
        rows = slice(len(Fault), templates.kinds)  # without the words of a last turn
        schema = json.dumps(tool.spec.schema(), ensure_ascii=False)
        costs[tool.spec.name] = TokenCost(
            len(tokenizer.encode("\n" + schema)), int(templates.valid_NW[rows].sum(axis=1).max())
        )
    return costs


def _sayings(tools: Sequence[Tool | HostTool]) -> tuple[list[Said], np.ndarray, np.ndarray]:
    """Every text once; per tool the kind of its first text, and whether it returns an image.

    Texts of a tool stand side by side; tools that say the same share them.
    """
    said: list[Said] = []
    first: dict[tuple[Said, ...], int] = {}
    kind_J, image_J = np.zeros(len(tools), np.int32), np.zeros(len(tools), bool)
    for index, tool in enumerate(tools):
        if isinstance(tool, HostTool):
            continue
        mine = tuple(Said(text, tool.image) for text in tool.texts)
        if mine not in first:
            first[mine] = len(Fault) + len(said)
            said += mine
        kind_J[index], image_J[index] = first[mine], tool.image
    for index, tool in enumerate(tools):
        if isinstance(tool, HostTool):
            kind_J[index] = len(Fault) + len(said)
    return said, kind_J, image_J
