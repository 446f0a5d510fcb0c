"""Constrained decoding: which tokens may follow, so that every turn is well formed and ends in time.

:func:`compile_constraint` runs a vocabulary's tokens through the byte automaton of a turn
(:mod:`~medvista_jax.text.automaton`, which says what is allowed) and packs the result as tables; :func:`start`,
:func:`advance` and :func:`mask_logits` are pure and walk one state a row through a turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Array
from medvista_jax.text.automaton import DEAD, END, TurnAutomaton, build_turn_automaton, refine
from medvista_jax.text.grammar import compile_grammar
from medvista_jax.text.tokenizer import Tokenizer, pack_token_bytes

_TAGS = frozenset(f"<{slash}{name}>" for name in ("think", "tool_call", "answer") for slash in ("", "/"))
FORBIDDEN = -1e30
"""A logit whose probability is 0 in float32. Finite, so that 0 times its logarithm is 0 in an entropy."""

_CHUNK = 64  # states that are walked through the vocabulary together


@struct.dataclass
class Constraint:
    """Tables of the automaton over a vocabulary.

    Letters: Q states, X byte values, V ids, M bytes of the longest, R different sets of tokens, W = ceil(V / 32)
    words of a set, K budgets.

    Attributes:
      next_QX: int32, state after a byte; 0 is dead, 1 the end.
      set_RW: uint32, sets of tokens, id v in bit ``v % 32`` of word ``v // 32``.
      row_QK: int32, which set is allowed in a state when k tokens are left; the last k: any number.
      distance_Q: int32, the fewest tokens from a state to the end; 0 for the dead state.
      pieces_VM, sizes_V: uint8 and int32, of ``Tokenizer.token_bytes``.
      starts: states before a turn that may call or answer, that must call, that must answer.
      vocab_size: V.
    """

    next_QX: Array
    set_RW: Array
    row_QK: Array
    distance_Q: Array
    pieces_VM: Array
    sizes_V: Array
    starts: tuple[int, int, int] = struct.field(pytree_node=False)
    vocab_size: int = struct.field(pytree_node=False)


class _Level(NamedTuple):
    """One depth of the vocabulary's trie: nodes reached by their n-th byte."""

    parent_N: np.ndarray  # index in the level above
    class_N: np.ndarray  # class of the byte
    word_N: np.ndarray  # the word that ends here, -1 for none


def _build_trie(classes_UM: np.ndarray, sizes_U: np.ndarray) -> list[_Level]:
    """The trie of different words, each ``sizes_U`` byte classes long."""
    levels, at = [], np.zeros(len(sizes_U), np.int64)
    for depth in range(int(sizes_U.max(initial=0))):
        longer = np.flatnonzero(sizes_U > depth)
        keys, node = np.unique(at[longer] * 256 + classes_UM[longer, depth], return_inverse=True)
        at[longer] = node.reshape(-1)
        word_N = np.full(len(keys), -1)
        ends = np.flatnonzero(sizes_U == depth + 1)
        word_N[at[ends]] = ends
        levels.append(_Level(keys // 256, keys % 256, word_N))
    return levels


def _walk(levels: Sequence[_Level], words: int, next_QC: np.ndarray, states_S: np.ndarray) -> np.ndarray:
    """State after each word from each of some states: [words, S]."""
    classes = next_QC.shape[1]
    flat = (next_QC * classes).reshape(-1)  # where the next state's row begins
    target_US = np.zeros((words, len(states_S)), flat.dtype)
    place_N, row_NS = np.zeros(1, np.int64), states_S[None] * classes  # place -1: nothing lives there
    for level in levels:
        kept = np.flatnonzero(place_N[level.parent_N] >= 0)
        row_NS = row_NS[place_N[level.parent_N[kept]]]
        row_NS += level.class_N[kept, None]
        row_NS = np.take(flat, row_NS)
        live = row_NS.any(axis=1)
        kept, row_NS = kept[live], row_NS[live]
        place_N = np.full(len(level.parent_N), -1)
        place_N[kept] = np.arange(len(kept))
        word = level.word_N[kept]
        target_US[word[word >= 0]] = row_NS[word >= 0]
        if not len(kept):
            break
    return target_US // classes


class _Vocabulary:
    """The ids that may stand in a turn, as different words of byte classes.

    Words that the automaton cannot tell apart are one.
    """

    def __init__(self, automaton: TurnAutomaton, tokenizer: Tokenizer) -> None:
        pieces_VM, sizes_V = tokenizer.token_bytes()
        usable_V = sizes_V > 0
        for text, index in tokenizer.special.items():
            usable_V[index] &= text in _TAGS or not text.strip()
        spelt, classes = pieces_VM.tobytes(), automaton.class_X.astype(np.uint8).tobytes()
        row, words = pieces_VM.shape[1], {}
        self.word_V = np.full(len(sizes_V), -1)
        for index in np.flatnonzero(usable_V).tolist():
            word = spelt[index * row : index * row + sizes_V[index]].translate(classes)
            self.word_V[index] = words.setdefault(word, len(words))
        self.word_V[~usable_V] = len(words)  # one past the words
        classes_UM, self.sizes_U = pack_token_bytes(list(words))
        self.levels = _build_trie(classes_UM.astype(np.int64), self.sizes_U)

    def walk(self, next_QC: np.ndarray, states: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """States in chunks, with the states that each word leads to: int32 [words, chunk]."""
        # States that let much through go together: a chunk walks where any of its states lives.
        live = np.count_nonzero(next_QC[states], axis=1)
        for at in range(0, len(states), _CHUNK):
            chunk = states[np.argsort(live, kind="stable")[at : at + _CHUNK]]
            yield chunk, _walk(self.levels, len(self.sizes_U), next_QC, chunk)


def _distances(vocabulary: _Vocabulary, next_QC: np.ndarray) -> np.ndarray:
    """Fewest tokens from each state to the end, -1 where it cannot be reached."""
    count = len(next_QC)
    leads_QQ = np.zeros((count, count), bool)
    for chunk, target_US in vocabulary.walk(next_QC, np.arange(END + 1, count)):
        place_US = target_US + count * np.arange(len(chunk))[None]
        leads_QQ[chunk] = np.bincount(place_US.reshape(-1), minlength=count * len(chunk)).reshape(-1, count) > 0
    distance_Q = np.full(count, -1, np.int32)
    distance_Q[END], frontier, steps = 0, np.array([END]), 0
    while len(frontier):
        steps += 1
        frontier = np.flatnonzero(leads_QQ[:, frontier].any(axis=1) & (distance_Q < 0))
        frontier = frontier[frontier != DEAD]
        distance_Q[frontier] = steps
    return distance_Q


def _pack(member_V: np.ndarray) -> np.ndarray:
    """uint32 words of a set of ids."""
    padded = np.pad(member_V, (0, -len(member_V) % 32))
    return np.packbits(padded, bitorder="little").view("<u4")


def _token_sets(
    vocabulary: _Vocabulary, next_QC: np.ndarray, distance_Q: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The different sets of tokens, and which of them each state allows at each budget.

    Args:
      after: bool [V], what the end and the dead state allow.
    """
    sets: dict[bytes, int] = {_pack(after).tobytes(): 0}
    row_QK = np.zeros((len(next_QC), int(distance_Q.max()) + 2), np.int32)
    # States of one block allow the same at any budget: one of each is walked.
    block_Q = refine(distance_Q, next_QC, int(vocabulary.sizes_U.max()))
    _, first, block_Q = np.unique(block_Q, return_index=True, return_inverse=True)
    budgets = row_QK.shape[1]
    needed_Q = np.where(distance_Q >= 0, distance_Q + 1, budgets).astype(np.min_scalar_type(budgets))
    rows: dict[bytes, np.ndarray] = {}
    for chunk, target_US in vocabulary.walk(next_QC, first[distance_Q[first] > 0]):
        needed_SU = np.ascontiguousarray(needed_Q[target_US].T)
        for state, needed_U in zip(chunk, needed_SU, strict=True):
            key = needed_U.tobytes()
            if key not in rows:
                needed_V = np.append(needed_U, needed_U.dtype.type(budgets))[vocabulary.word_V]
                rows[key] = np.empty(budgets, np.int32)
                lowest, *others = [int(needed) for needed in np.unique(needed_U) if needed < budgets]
                for budget in (lowest, *others):
                    row = sets.setdefault(_pack(needed_V <= budget).tobytes(), len(sets))
                    rows[key][0 if budget == lowest else budget :] = row
            row_QK[state] = rows[key]
    set_RW = np.stack([np.frombuffer(words, "<u4") for words in sets])
    return set_RW.astype(np.uint32), row_QK[first][block_Q.reshape(-1)]


def compile_constraint(specs: Sequence[ToolSpec], tokenizer: Tokenizer, answer_bytes: int = 64) -> Constraint:
    """Tables for a set of tools and a vocabulary, as numpy arrays.

    Ids that spell nothing and special symbols other than the tags stand in no turn.

    Args:
      specs: the registered tools.
      tokenizer: of the model.
      answer_bytes: of the longest answer; more than the parsers keep makes no sense.

    Raises:
      ValueError: what :func:`~medvista_jax.text.grammar.compile_grammar` raises, ``answer_bytes`` below 1, or a
        vocabulary that cannot spell some turn to its end.
    """
    compile_grammar(specs)  # for what it refuses
    if answer_bytes < 1:
        raise ValueError(f"an answer has at least one byte, not {answer_bytes}")
    automaton = build_turn_automaton(specs, answer_bytes)
    vocabulary = _Vocabulary(automaton, tokenizer)
    distance_Q = _distances(vocabulary, automaton.class_next_QC)
    if min(distance_Q[list(automaton.starts)]) < 0:
        raise ValueError("this vocabulary cannot spell a call and an answer: it lacks single bytes that they need")
    pieces_VM, sizes_V = tokenizer.token_bytes()
    after = np.zeros(len(sizes_V), bool)
    after[[tokenizer.pad_id, tokenizer.special.get("<|im_end|>", tokenizer.pad_id)]] = True
    set_RW, row_QK = _token_sets(vocabulary, automaton.class_next_QC, distance_Q, after)
    return Constraint(
        next_QX=automaton.class_next_QC[:, automaton.class_X],
        set_RW=set_RW,
        row_QK=row_QK,
        distance_Q=np.maximum(distance_Q, 0),
        pieces_VM=pieces_VM,
        sizes_V=sizes_V,
        starts=automaton.starts,
        vocab_size=len(sizes_V),
    )


def start(
    constraint: Constraint, batch: int, may_call_B: Array | bool = True, may_answer_B: Array | bool = True
) -> Array:
    """int32 [B]: states before a turn. A row that may neither call nor answer may answer."""
    may_call_B, may_answer_B = (jnp.broadcast_to(jnp.asarray(may), (batch,)) for may in (may_call_B, may_answer_B))
    both, call, answer = constraint.starts
    return jnp.where(may_call_B, jnp.where(may_answer_B, both, call), answer).astype(jnp.int32)


def allowed(constraint: Constraint, state_B: Array, left_B: Array | None = None) -> Array:
    """bool [B, V]: the tokens that may follow; at least one in each row.

    After the end, and in a state that no turn begins with, these are ``<|im_end|>`` and the pad symbol.

    Args:
      state_B: int32.
      left_B: int32, tokens that may still be sampled, this one included. Only tokens from which the end can be
        reached within them; where there is none, those of the shortest way. ``None``: any number.
    """
    return _members(constraint, token_set(constraint, state_B, left_B))


def token_set(constraint: Constraint, state_B: Array, left_B: Array | None = None) -> Array:
    """int32 [B]: which of the sets of tokens, ``set_RW``, :func:`allowed` is."""
    last = constraint.row_QK.shape[1] - 1
    budget_B = jnp.full_like(state_B, last) if left_B is None else jnp.clip(left_B, 0, last)
    return jnp.asarray(constraint.row_QK)[state_B, budget_B]


def _members(constraint: Constraint, row: Array) -> Array:
    """bool ``[…, V]`` of sets ``[…]``."""
    words = jnp.asarray(constraint.set_RW)[row]
    place = jnp.expand_dims(jnp.arange(32, dtype=jnp.uint32), tuple(range(words.ndim)))
    bits = (words[..., None] >> place) & 1
    return bits.reshape(*row.shape, -1)[..., : constraint.vocab_size] > 0


def within_set(constraint: Constraint, row: Array, logits: Array) -> Array:
    """Logits ``[…, V]`` as they are in a set of tokens ``[…]`` and :data:`FORBIDDEN` outside; row -1 allows all.

    Rollout and loss both call this function (promise 2).
    """
    return jnp.where((row < 0)[..., None] | _members(constraint, jnp.maximum(row, 0)), logits, FORBIDDEN)


def advance(constraint: Constraint, state_B: Array, token_B: Array) -> Array:
    """int32 [B]: states after a token. The end and the dead state are left by none."""
    next_QX = jnp.asarray(constraint.next_QX)
    piece_BM, size_B = (jnp.asarray(table)[token_B] for table in (constraint.pieces_VM, constraint.sizes_V))

    def step(at: Array, state_B: Array) -> Array:
        byte_B = lax.dynamic_index_in_dim(piece_BM, at, axis=1, keepdims=False).astype(jnp.int32)
        return jnp.where(at < size_B, next_QX[state_B, byte_B], state_B)

    after_B = lax.fori_loop(0, jnp.max(size_B), step, state_B)
    return jnp.where(state_B == END, END, after_B).astype(jnp.int32)


def mask_logits(constraint: Constraint, state_B: Array, logits_BV: Array, left_B: Array | None = None) -> Array:
    """``logits_BV`` with −inf wherever :func:`allowed` says no."""
    return jnp.where(allowed(constraint, state_B, left_B), logits_BV, -jnp.inf)
