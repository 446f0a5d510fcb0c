"""The gym: pure batched ``reset`` and ``step`` over device arrays.

An action is the token ids of one turn. It is parsed on the device by transducer tables that come from the tools'
specs, the tool runs on the device array, and an observation comes back as token ids and a new view. Nothing a policy
writes can raise, stop the program or be skipped: what cannot be carried out becomes an observation with an error text.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import Array, Fault, ImageBank, Kind, ParsedTurn, Question, View, Views
from medvista_jax.environment.tool_call import merge_words, missing_image, run_tools
from medvista_jax.text.chat import HostWords, ObservationTemplates, render
from medvista_jax.text.constraint import Constraint
from medvista_jax.text.grammar import Grammar
from medvista_jax.text.parse import Stops, parse_turn
from medvista_jax.tools.base import Outcome, Tool
from medvista_jax.tools.geometry import whole_views
from medvista_jax.tools.host.call import HostTool
from medvista_jax.tools.render import render as render_recipes


@struct.dataclass
class Environment:
    """Tables and static sizes. Built by :func:`medvista_jax.environment.build.build_environment`.

    Attributes:
      grammar, templates, token_bytes, stops: tables of the tokenizer and the tools' specs.
      kind_J: int32, the observation kind of each tool's first text.
      image_J: bool, whether a tool returns an image.
      constraint: tables for decoding nothing but well-formed turns; None where the policy is free.
      tools: in the order of the grammar.
      turns: capacity R of turns.
      turn_tokens: capacity T of sampled tokens a turn.
      turn_bytes: bytes of a turn that are parsed, from its end.
      answer_bytes: bytes of the longest answer that is kept; a longer one counts as empty.
      view_size: h, w of every view that the model reads.
      tokens_per_image: L.
      force_answer_only: the constraint holds in turns that must answer; in others the policy is free.
    """

    grammar: Grammar
    templates: ObservationTemplates
    token_bytes: tuple[Array, Array]
    stops: Stops
    kind_J: Array
    image_J: Array
    constraint: Constraint | None
    tools: tuple[Tool | HostTool, ...] = struct.field(pytree_node=False)
    turns: int = struct.field(pytree_node=False, default=3)
    turn_tokens: int = struct.field(pytree_node=False, default=48)
    turn_bytes: int = struct.field(pytree_node=False, default=256)
    answer_bytes: int = struct.field(pytree_node=False, default=64)
    view_size: tuple[int, int] = struct.field(pytree_node=False, default=(64, 64))
    tokens_per_image: int = struct.field(pytree_node=False, default=16)
    pad_id: int = struct.field(pytree_node=False, default=0)
    force_answer_only: bool = struct.field(pytree_node=False, default=False)

    @property
    def observation_slots(self) -> int:
        """W, slots that every observation takes."""
        return self.templates.width

    def image_slots(self, originals: int) -> int:
        """I, images a trajectory can hold: the originals and one view for each turn but the last."""
        return originals + self.turns - 1

    @property
    def host_tools(self) -> dict[int, HostTool]:
        """The tools that run outside of the compiled program, by their index."""
        return {index: tool for index, tool in enumerate(self.tools) if isinstance(tool, HostTool)}


@struct.dataclass
class EnvState:
    """All that tools, prompt and policy can reach. The answer key is not here (promise 4).

    ``turn_tokens_BR`` is the most that each turn may sample.
    """

    bank: ImageBank
    views: Views
    max_turns_B: Array
    max_calls_B: Array
    max_images_B: Array
    turn_tokens_BR: Array
    turns_B: Array
    calls_B: Array
    done_B: Array
    truncated_B: Array
    answer_BN: Array
    answer_length_B: Array


@struct.dataclass
class Observation:
    """What the environment says after a turn. Rows that are done say nothing: ``valid_BW`` is False there.

    Attributes:
      tokens_BW, valid_BW: ids and which of them belong to the row's sequence.
      feature_BW: ``image_slot * L + k`` for the embeddings of the new view, -1 elsewhere.
      slot_B: int32 image slot of the new view, -1 where there is none.
      parsed: the turn as understood, with the environment's faults filled in.
    """

    tokens_BW: Array
    valid_BW: Array
    feature_BW: Array
    slot_B: Array
    parsed: ParsedTurn


def reset(environment: Environment, question: Question, group: int) -> EnvState:
    """``group`` fresh episodes for each question; row ``b`` belongs to prompt ``b // group``.

    Rows without a turn to spend are done and truncated from the start.
    """
    each = lambda x: jnp.repeat(x, group, axis=0)  # noqa: E731
    bank = question.bank
    prompts, originals = bank.window_PO2.shape[:2]
    batch = prompts * group
    views = Views(view=_whole_views(environment, bank), count_B=bank.count_P)
    zero_B = jnp.zeros((batch,), jnp.int32)
    max_turns_B = jnp.minimum(each(question.max_turns_P), environment.turns)
    over_B = max_turns_B <= 0
    spare_B = environment.image_slots(originals) - each(bank.count_P)
    turn_tokens_BR = jnp.full((batch, environment.turns), environment.turn_tokens, jnp.int32)
    if question.turn_tokens_PR is not None:
        turn_tokens_BR = jnp.clip(each(question.turn_tokens_PR), 1, environment.turn_tokens)
    return EnvState(
        bank=bank,
        views=jax.tree.map(each, views),
        max_turns_B=max_turns_B,
        max_calls_B=each(question.max_calls_P),
        max_images_B=jnp.minimum(each(question.max_images_P), spare_B) + each(bank.count_P),
        turn_tokens_BR=turn_tokens_BR,
        turns_B=zero_B,
        calls_B=zero_B,
        done_B=over_B,
        truncated_B=over_B,
        answer_BN=jnp.zeros((batch, environment.answer_bytes), jnp.uint8),
        answer_length_B=zero_B,
    )


def _whole_views(environment: Environment, bank: ImageBank) -> View:
    """Recipes of the originals, leaves ``[P, I, …]``, with room for an effect of every call."""
    slots = environment.image_slots(bank.window_PO2.shape[1])
    return whole_views(bank, slots, max(1, environment.turns - 1))


def read(environment: Environment, tokens_BT: Array, length_B: Array) -> ParsedTurn:
    """What the sampled ids of one turn say; the faults are those that the text alone shows."""
    return parse_turn(
        environment.grammar,
        environment.token_bytes,
        tokens_BT,
        length_B,
        environment.turn_bytes,
        environment.answer_bytes,
    )


def step(environment: Environment, state: EnvState, tokens_BT: Array, length_B: Array) -> tuple[EnvState, Observation]:
    """Carry out one turn of every row that is not done; calls of host tools fail here, see :func:`act`.

    Args:
      tokens_BT: int32 ids that the policy sampled in this turn.
      length_B: int32, how many of them count.
    """
    return act(environment, state, read(environment, tokens_BT, length_B))


def asks_host(environment: Environment, state: EnvState, parsed: ParsedTurn) -> Array:
    """bool ``[B]``: rows whose turn is a sound call of a host tool within the budgets."""
    sound_B = ~state.done_B & (parsed.kind_B == Kind.CALL) & (parsed.fault_B == Fault.NONE)
    asks_B = jnp.zeros_like(state.done_B)
    for index, tool in environment.host_tools.items():
        asks_B |= (parsed.tool_B == index) & (missing_image(tool, parsed, state.views) == Fault.NONE)
    return asks_B & sound_B & (state.calls_B < state.max_calls_B)


def must_answer(state: EnvState) -> Array:
    """bool ``[B]``: the coming turn is the row's last, or no call is left."""
    return (state.turns_B + 1 >= state.max_turns_B) | (state.calls_B >= state.max_calls_B)


def act(
    environment: Environment, state: EnvState, parsed: ParsedTurn, words: HostWords | None = None
) -> tuple[EnvState, Observation]:
    """Carry out a turn that has been read: :func:`run_tools`, then :func:`settle`.

    Args:
      words: what host tools said to the rows of :func:`asks_host`; without it their calls fail.
    """
    return settle(environment, state, parsed, *run_tools(environment, state, parsed), words)


def settle(
    environment: Environment,
    state: EnvState,
    parsed: ParsedTurn,
    outcome: Outcome,
    fault_B: Array,
    words: HostWords | None = None,
) -> tuple[EnvState, Observation]:
    """The state after a turn and what the environment says, from what the tools have done.

    Args:
      outcome, fault_B: of :func:`medvista_jax.environment.tool_call.run_tools`.
    """
    active_B = ~state.done_B
    answered_B = active_B & (parsed.kind_B == Kind.ANSWER)
    call_B = active_B & (parsed.kind_B == Kind.CALL)
    fault_B = merge_words(environment, parsed, fault_B, words)
    done_well_B = call_B & (fault_B == Fault.NONE)
    tool_B = jnp.maximum(parsed.tool_B, 0)
    shows_B = done_well_B & environment.image_J[tool_B]
    slot_B = jnp.where(shows_B, state.views.count_B, -1)
    views = _append_view(state.views, outcome.view, shows_B)

    turns_B, calls_B = state.turns_B + active_B, state.calls_B + call_B
    # A budget that has run out leaves one turn to answer in.
    spent_B = active_B & ((fault_B == Fault.NO_CALLS_LEFT) | (fault_B == Fault.NO_IMAGES_LEFT))
    max_turns_B = jnp.where(spent_B, jnp.minimum(state.max_turns_B, turns_B + 1), state.max_turns_B)
    out_of_turns_B = active_B & ~answered_B & (turns_B >= max_turns_B)
    done_B = state.done_B | answered_B | out_of_turns_B
    counted = state.replace(turns_B=turns_B, calls_B=calls_B, max_turns_B=max_turns_B)
    kind_B = jnp.where(done_well_B, environment.kind_J[tool_B] + outcome.text, fault_B)
    # ``count`` before the new view is the index that the policy will use for it.
    tokens_BW, valid_BW, within_BW = render(
        environment.templates, kind_B, state.views.count_B, outcome.numbers_N, must_answer(counted), words
    )
    first_B1 = state.views.count_B[:, None] * environment.tokens_per_image
    observation = Observation(
        tokens_BW=tokens_BW,
        valid_BW=valid_BW & ~done_B[:, None],
        feature_BW=jnp.where(within_BW >= 0, first_B1 + within_BW, -1),
        slot_B=jnp.where(done_B, -1, slot_B),
        parsed=parsed.replace(fault_B=fault_B),
    )
    new_state = counted.replace(
        views=views,
        done_B=done_B,
        truncated_B=state.truncated_B | out_of_turns_B,
        answer_BN=jnp.where(answered_B[:, None], parsed.answer_BN, state.answer_BN),
        answer_length_B=jnp.where(answered_B, parsed.answer_length_B, state.answer_length_B),
    )
    return new_state, observation


def _append_view(views: Views, view: View, shows_B: Array) -> Views:
    """Write the new view's recipe at each row's own next slot."""
    slots_I = jnp.arange(views.view.blend.shape[1])
    here_BI = shows_B[:, None] & (slots_I[None, :] == views.count_B[:, None])

    def put(old_BI: Array, new_B: Array) -> Array:
        mask = here_BI.reshape(here_BI.shape + (1,) * (old_BI.ndim - 2))
        return jnp.where(mask, new_B[:, None], old_BI)

    return Views(view=jax.tree.map(put, views.view, view), count_B=views.count_B + shows_B)


def view_of(views: Views, slot_B: Array) -> View:
    """The recipe in one image slot of each row; negative slots give the first."""

    def take(leaf_BI: Array) -> Array:
        at_B = jnp.maximum(slot_B, 0).reshape((-1,) + (1,) * (leaf_BI.ndim - 1))
        return jnp.take_along_axis(leaf_BI, at_B, axis=1)[:, 0]

    return jax.tree.map(take, views.view)


def render_views(environment: Environment, bank: ImageBank, views: Views, slot_B: Array) -> Array:
    """Pixels of one image slot of each row, from the original pixels: uint8 ``[B, h, w, C]``.

    Negative slots are black and, on a CPU, cost nothing.
    """
    return render_recipes(environment.tools, bank, view_of(views, slot_B), environment.view_size, slot_B >= 0)


def render_originals(environment: Environment, bank: ImageBank) -> Array:
    """Every original as the policy first sees it: uint8 ``[P, O, h, w, C]``."""
    originals = bank.window_PO2.shape[1]
    view_PI = _whole_views(environment, bank)
    shown = [
        render_recipes(
            environment.tools, bank, jax.tree.map(lambda leaf, o=o: leaf[:, o], view_PI), environment.view_size
        )
        for o in range(originals)
    ]
    return jnp.stack(shown, axis=1)
