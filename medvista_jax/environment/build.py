"""Building an environment: tables from a tokenizer and the tools' specs."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from medvista_jax.environment.gym import Environment
from medvista_jax.text.chat import Frame, Style, build_observations
from medvista_jax.text.grammar import compile_grammar
from medvista_jax.text.parse import compile_stops
from medvista_jax.text.tokenizer import Tokenizer
from medvista_jax.tools.base import Tool


def build_environment(
    tokenizer: Tokenizer,
    tools: Sequence[Tool],
    tokens_per_image: int,
    view_size: tuple[int, int],
    turns: int = 3,
    turn_tokens: int = 48,
    style: Style | Frame = "compact",
) -> Environment:
    """An environment whose tables live on the default device.

    Args:
      tokens_per_image: embeddings that a view costs the model, L.
      view_size: h, w of the views that the model reads.
      turns, turn_tokens: capacities R and T; the budgets of a question may be smaller.
      style: of observations; for a hub's chat template its frame, :attr:`medvista_jax.text.hub_chat.HubChat.frame`.

    Raises:
      ValueError: no tool, two tools of one name, or no turn.
    """
    names = [tool.name for tool in tools]
    if not names:
        raise ValueError("an environment needs at least one tool; switch tools off by a question's budgets")
    if len(set(names)) < len(names):
        raise ValueError(f"tools must have different names, got {', '.join(names)}")
    if turns < 1 or turn_tokens < 1:
        raise ValueError(f"turns and turn_tokens must be at least 1, got {turns} and {turn_tokens}")
    token_bytes = tokenizer.token_bytes()
    tables = {
        "grammar": compile_grammar([tool.spec for tool in tools]),
        "templates": build_observations(tokenizer, tokens_per_image, style),
        "token_bytes": token_bytes,
        "stops": compile_stops(token_bytes),
    }
    return Environment(
        **jax.tree.map(jnp.asarray, tables),
        tools=tuple(tools),
        turns=turns,
        turn_tokens=turn_tokens,
        view_size=view_size,
        tokens_per_image=tokens_per_image,
        pad_id=tokenizer.pad_id,
    )
