"""The gym: pure batched ``reset`` and ``step`` over device arrays.

An action is the token ids of one turn. It is parsed on the device by transducer tables that come from the tools'
specs, the tool runs on the device array, and an observation comes back as token ids and a new view. Nothing a policy
writes can raise, stop the program or be skipped: what cannot be carried out becomes an observation with an error text.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import Array, Fault, ImageBank, Kind, ParsedTurn, Question, Views
from medvista_jax.text.chat import ObservationTemplates, render
from medvista_jax.text.grammar import Grammar
from medvista_jax.text.parse import Stops, parse_turn
from medvista_jax.tools.base import Outcome, RowViews, Tool
from medvista_jax.tools.resample import apply_window, crop_resize


@struct.dataclass
class Environment:
    """Tables and static sizes. Built by :func:`medvista_jax.environment.build.build_environment`.

    Attributes:
      grammar, templates, token_bytes, stops: tables of the tokenizer and the tools' specs.
      tools: in the order of the grammar.
      turns: capacity R of turns.
      turn_tokens: capacity T of sampled tokens a turn.
      turn_bytes: bytes of a turn that are parsed, from its end.
      answer_bytes: bytes of the longest answer that is kept; a longer one counts as empty.
      view_size: h, w of every view that the model reads.
      tokens_per_image: L.
    """

    grammar: Grammar
    templates: ObservationTemplates
    token_bytes: tuple[Array, Array]
    stops: Stops
    tools: tuple[Tool, ...] = struct.field(pytree_node=False)
    turns: int = struct.field(pytree_node=False, default=3)
    turn_tokens: int = struct.field(pytree_node=False, default=48)
    turn_bytes: int = struct.field(pytree_node=False, default=256)
    answer_bytes: int = struct.field(pytree_node=False, default=64)
    view_size: tuple[int, int] = struct.field(pytree_node=False, default=(64, 64))
    tokens_per_image: int = struct.field(pytree_node=False, default=16)
    pad_id: int = struct.field(pytree_node=False, default=0)

    @property
    def observation_slots(self) -> int:
        """W, slots that every observation takes."""
        return self.templates.width

    def image_slots(self, originals: int) -> int:
        """I, images a trajectory can hold: the originals and one view for each turn but the last."""
        return originals + self.turns - 1


@struct.dataclass
class EnvState:
    """All that tools, prompt and policy can reach. The answer key is not here (promise 4)."""

    bank: ImageBank
    views: Views
    max_turns_B: Array
    max_calls_B: Array
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
    bank = question.bank
    prompts, originals = bank.window_PO2.shape[:2]
    batch = prompts * group
    slots = environment.image_slots(originals)
    each = lambda x: jnp.repeat(x, group, axis=0)  # noqa: E731
    source_I = jnp.minimum(jnp.arange(slots, dtype=jnp.int32), originals - 1)
    whole_4 = jnp.array([0.0, 0.0, 1.0, 1.0])
    views = Views(
        source_BI=jnp.tile(source_I[None], (batch, 1)),
        box_BI4=jnp.tile(whole_4[None, None], (batch, slots, 1)),
        window_BI2=each(bank.window_PO2[:, source_I]),
        count_B=each(bank.count_P),
    )
    zero_B = jnp.zeros((batch,), jnp.int32)
    max_turns_B = jnp.minimum(each(question.max_turns_P), environment.turns)
    over_B = max_turns_B <= 0
    return EnvState(
        bank=bank,
        views=views,
        max_turns_B=max_turns_B,
        max_calls_B=each(question.max_calls_P),
        turns_B=zero_B,
        calls_B=zero_B,
        done_B=over_B,
        truncated_B=over_B,
        answer_BN=jnp.zeros((batch, environment.answer_bytes), jnp.uint8),
        answer_length_B=zero_B,
    )


def step(environment: Environment, state: EnvState, tokens_BT: Array, length_B: Array) -> tuple[EnvState, Observation]:
    """Carry out one turn of every row that is not done.

    Args:
      tokens_BT: int32 ids that the policy sampled in this turn.
      length_B: int32, how many of them count.
    """
    parsed = parse_turn(
        environment.grammar,
        environment.token_bytes,
        tokens_BT,
        length_B,
        environment.turn_bytes,
        environment.answer_bytes,
    )
    active_B = ~state.done_B
    answered_B = active_B & (parsed.kind_B == Kind.ANSWER)
    call_B = active_B & (parsed.kind_B == Kind.CALL)
    outcome, fault_B = _run_tools(environment, state, parsed, call_B)
    shows_B = call_B & (fault_B == Fault.NONE)
    slot_B = jnp.where(shows_B, state.views.count_B, -1)
    views = _append_view(state.views, outcome, shows_B)

    turns_B = state.turns_B + active_B
    out_of_turns_B = active_B & ~answered_B & (turns_B >= state.max_turns_B)
    done_B = state.done_B | answered_B | out_of_turns_B
    parsed = parsed.replace(fault_B=fault_B)
    # ``count`` before the new view is the index that the policy will use for it.
    calls_B = state.calls_B + call_B
    must_answer_B = (turns_B + 1 >= state.max_turns_B) | (calls_B >= state.max_calls_B)
    tokens_BW, valid_BW, within_BW = render(environment.templates, fault_B, state.views.count_B[:, None], must_answer_B)
    first_B1 = state.views.count_B[:, None] * environment.tokens_per_image
    observation = Observation(
        tokens_BW=tokens_BW,
        valid_BW=valid_BW & ~done_B[:, None],
        feature_BW=jnp.where(within_BW >= 0, first_B1 + within_BW, -1),
        slot_B=jnp.where(done_B, -1, slot_B),
        parsed=parsed,
    )
    new_state = state.replace(
        views=views,
        turns_B=turns_B,
        calls_B=calls_B,
        done_B=done_B,
        truncated_B=state.truncated_B | out_of_turns_B,
        answer_BN=jnp.where(answered_B[:, None], parsed.answer_BN, state.answer_BN),
        answer_length_B=jnp.where(answered_B, parsed.answer_length_B, state.answer_length_B),
    )
    return new_state, observation


def _run_tools(environment: Environment, state: EnvState, parsed: ParsedTurn, call_B: Array) -> tuple[Outcome, Array]:
    """Every tool's kernel over all rows, the row's own tool selected; then the budgets."""
    views = state.views
    rows = RowViews(source_I=views.source_BI, box_I4=views.box_BI4, window_I2=views.window_BI2, count=views.count_B)
    chosen: Outcome | None = None
    for index, tool in enumerate(environment.tools):
        outcome = jax.vmap(tool.kernel)(parsed.arguments_BA, rows)
        if chosen is None:
            chosen = outcome
            continue
        mine_B = parsed.tool_B == index
        pick = lambda a, b, mine_B=mine_B: jnp.where(mine_B.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)  # noqa: E731
        chosen = jax.tree.map(pick, outcome, chosen)
    assert chosen is not None, "an environment needs at least one tool"
    fault_B = jnp.where(parsed.fault_B == Fault.NONE, chosen.fault, parsed.fault_B)
    full_B = views.count_B >= views.source_BI.shape[1]
    fault_B = jnp.where((fault_B == Fault.NONE) & full_B, int(Fault.NO_IMAGES_LEFT), fault_B)
    fault_B = jnp.where(state.calls_B >= state.max_calls_B, int(Fault.NO_CALLS_LEFT), fault_B)
    return chosen, jnp.where(call_B, fault_B, parsed.fault_B)


def _append_view(views: Views, outcome: Outcome, shows_B: Array) -> Views:
    """Write the new view's recipe at each row's own next slot."""
    slots_I = jnp.arange(views.source_BI.shape[1])
    here_BI = shows_B[:, None] & (slots_I[None, :] == views.count_B[:, None])
    return Views(
        source_BI=jnp.where(here_BI, outcome.source[:, None], views.source_BI),
        box_BI4=jnp.where(here_BI[..., None], outcome.box_4[:, None], views.box_BI4),
        window_BI2=jnp.where(here_BI[..., None], outcome.window_2[:, None], views.window_BI2),
        count_B=views.count_B + shows_B,
    )


def render_views(environment: Environment, bank: ImageBank, views: Views, slot_B: Array) -> Array:
    """Pixels of one image slot of each row, from the original pixels: uint8 ``[B, h, w, C]``.

    Negative slots render the first image, so that shapes stay static; callers ignore those rows.
    """
    at_B = jnp.maximum(slot_B, 0)[:, None]
    source_B = jnp.take_along_axis(views.source_BI, at_B, axis=1)[:, 0]
    box_B4 = jnp.take_along_axis(views.box_BI4, at_B[..., None], axis=1)[:, 0]
    window_B2 = jnp.take_along_axis(views.window_BI2, at_B[..., None], axis=1)[:, 0]
    height, width = environment.view_size
    rows, columns = bank.pixels_POYXC.shape[2:4]
    box_B4 = box_B4 * jnp.array([columns, rows, columns, rows], jnp.float32)[None]
    shown_BhwC = crop_resize(bank.pixels_POYXC, source_B, box_B4, _canvas_sizes(bank), height, width)
    return apply_window(shown_BhwC, window_B2)


def render_originals(environment: Environment, bank: ImageBank) -> Array:
    """Every original as the policy first sees it: uint8 ``[P, O, h, w, C]``."""
    height, width = environment.view_size
    prompts, originals, rows, columns, channels = bank.pixels_POYXC.shape
    source_N = jnp.tile(jnp.arange(originals, dtype=jnp.int32), prompts)
    whole_N4 = jnp.tile(jnp.array([[0.0, 0.0, columns, rows]]), (prompts * originals, 1))
    shown_NhwC = crop_resize(bank.pixels_POYXC, source_N, whole_N4, _canvas_sizes(bank), height, width)
    shown_NhwC = apply_window(shown_NhwC, bank.window_PO2.reshape(-1, 2))
    return shown_NhwC.reshape(prompts, originals, height, width, channels)


def _canvas_sizes(bank: ImageBank) -> Array:
    """Originals fill their canvases: int32 rows and columns ``[P, O, 2]``."""
    prompts, originals, rows, columns = bank.pixels_POYXC.shape[:4]
    return jnp.tile(jnp.array([rows, columns], jnp.int32)[None, None], (prompts, originals, 1))
