"""The rollout for environments with host tools: the same steps as :mod:`~medvista_jax.rollout.loop`, with pauses.

    compiled: prefill → [ compiled: decode → parse → device tools │ host: run what rows asked │ compiled: hear ] × turns

The host runs while the device renders and encodes the views of the other rows; where no row asks, nothing waits.
"""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from medvista_jax.core.types import Array, Params, ParsedTurn, Question, Trajectory
from medvista_jax.environment import gym
from medvista_jax.environment.gym import Environment
from medvista_jax.environment.host_calls import Run, answer_calls, no_words
from medvista_jax.environment.tool_call import run_tools
from medvista_jax.models.vlm import KVCache, VisionLanguageModel
from medvista_jax.rollout.loop import Carry, Script, decode, hear, note_turn, prefill, see, unfinished
from medvista_jax.rollout.record import finish
from medvista_jax.rollout.sampling import Sampling, row_keys
from medvista_jax.text.chat import HostWords
from medvista_jax.text.tokenizer import Tokenizer
from medvista_jax.tools.base import Outcome
from medvista_jax.tools.host.batch import run_batch


def rollout_with_host(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    tokenizer: Tokenizer,
    question: Question,
    key: Array,
    group: int,
    sampling: Sampling,
    script: Script | None = None,
    run: Run = run_batch,
) -> Trajectory:
    """:func:`medvista_jax.rollout.loop.rollout` with the calls of host tools answered.

    Args:
      tokenizer: of the policy; the tools' texts are encoded with it.
      run: answers a batch of calls. Its replies are not the policy's doing: they are recorded in the trajectory, and
        a replay gives them back through this argument.

    Returns:
      The same trajectory as ``rollout`` where nobody calls a host tool.
    """
    keys_B = row_keys(key, question.tokens_PS.shape[0], group)
    carry = _begin(model, params, environment, question, group)
    table = tuple(np.asarray(part) for part in environment.token_bytes)
    going = True
    while going:
        carry, parsed, tokens_BT, length_B, asks_B = _speak(
            model, params, environment, carry._replace(cache=None), carry.cache, keys_B, sampling, script
        )
        asked_B = np.asarray(asks_B)
        before = carry.state
        features, outcome, fault_B = _look(model, params, environment, carry, parsed)
        words = no_words(environment, len(asked_B))
        if asked_B.any():
            turns = spell(table, np.asarray(tokens_BT), np.asarray(length_B), asked_B)
            words = answer_calls(environment, tokenizer, before, turns, asked_B, run)
        heard = carry._replace(features=features, cache=None)
        carry, more = _hear(model, params, environment, heard, carry.cache, parsed, length_B, outcome, fault_B, words)
        going = bool(more)
    return finish(carry.record, carry.turns, carry.state, carry.features)


def spell(
    table: tuple[np.ndarray, np.ndarray], tokens_BT: np.ndarray, length_B: np.ndarray, rows_B: np.ndarray
) -> list[bytes]:
    """The bytes of the turns of some rows; ``b""`` for the others."""
    pieces_VM, sizes_V = table
    return [
        b"".join(pieces_VM[i, : sizes_V[i]].tobytes() for i in tokens_BT[row, : length_B[row]]) if rows_B[row] else b""
        for row in range(len(rows_B))
    ]


@partial(jax.jit, static_argnames=("model", "group"))
def _begin(
    model: VisionLanguageModel, params: Params, environment: Environment, question: Question, group: int
) -> Carry:
    return prefill(model, params, environment, question, group)


# Of a carry only the cache is donated: its image bank may be the caller's own arrays.
@partial(jax.jit, static_argnames=("model",), donate_argnames=("cache",))
def _speak(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    carry: Carry,
    cache: KVCache,
    keys_B: Array,
    sampling: Sampling,
    script: Script | None,
) -> tuple[Carry, ParsedTurn, Array, Array, Array]:
    carry = carry._replace(cache=cache)
    carry, tokens_BT, length_B = decode(model, params, environment, carry, keys_B, sampling, script)
    parsed = gym.read(environment, tokens_BT, length_B)
    return carry, parsed, tokens_BT, length_B, gym.asks_host(environment, carry.state, parsed)


@partial(jax.jit, static_argnames=("model",))
def _look(model: VisionLanguageModel, params: Params, environment: Environment, carry: Carry, parsed: ParsedTurn):
    """Device tools and their views; what the host says changes neither."""
    outcome, fault_B = run_tools(environment, carry.state, parsed)
    state, observation = gym.settle(environment, carry.state, parsed, outcome, fault_B)
    seen = see(model, params, environment, carry._replace(state=state), observation.slot_B)
    return seen.features, outcome, fault_B


@partial(jax.jit, static_argnames=("model",), donate_argnames=("cache",))
def _hear(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    carry: Carry,
    cache: KVCache,
    parsed: ParsedTurn,
    length_B: Array,
    outcome: Outcome,
    fault_B: Array,
    words: HostWords,
) -> tuple[Carry, Array]:
    active_B = ~carry.state.done_B
    state, observation = gym.settle(environment, carry.state, parsed, outcome, fault_B, words)
    carry = note_turn(carry._replace(cache=cache), state, observation, length_B, active_B)
    go_on = unfinished(environment, carry)
    tell = lambda carry: hear(model, params, environment, carry, observation)  # noqa: E731
    return jax.lax.cond(go_on, tell, lambda carry: carry, carry), go_on
