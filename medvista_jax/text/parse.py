"""The device's reading of a batch of turns: token ids → bytes → tags → transducer → ``ParsedTurn``.

Rules of a turn, obeyed alike by :mod:`medvista_jax.text.host_parser`:

- A block is ``<tag>…</tag>`` with no tag of that name inside; of several calls, or answers, the last one
  counts.
- An answer wins over a call, wherever the two stand: it ends the episode.
- An answer of more bytes than are kept of one becomes empty: no key is empty, and a cut answer might be a key.
- No block at all is ``Kind.NOTHING`` with ``NO_ACTION``; an unterminated block is no block.
- Of a turn longer than the byte capacity the *last* bytes are read, and it is not well formed.
- The call's body is read by the rules of :mod:`medvista_jax.text.grammar`.

Everything here is pure, has static shapes and no Python loop over rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from medvista_jax.core.tool_spec import CHECKSUM_BASE, CHECKSUM_MODULUS
from medvista_jax.core.types import Array, Fault, Kind, ParsedTurn
from medvista_jax.text.grammar import CHECKSUM, ELEMENT, FIRST, INDEX, LENGTH, NEGATIVE, Grammar, Op, Type, unpack

_SATURATE = 99_999_999  # the accumulator stops here, so that ten times it plus a digit is past every bound
_BLOCKS = ("think", "tool_call", "answer")
_COUNT = 8  # a key's note: its Type in the low bits, how often the key stood above them


def gather_bytes(
    table: tuple[Array, Array], tokens_BT: Array, length_B: Array, capacity: int
) -> tuple[Array, Array, Array]:
    """The bytes that the first ``length_B`` tokens of each row spell.

    Args:
      table: uint8 [V, M] and int32 [V] of ``Tokenizer.token_bytes``.
      tokens_BT: int32 ids in 0…V-1.
      length_B: int32, how many of the T ids count.
      capacity: N, bytes to keep of each row. What is longer loses its beginning.

    Returns:
      bytes_BN uint8, zero-padded on the right; n_B int32 bytes in use; overflow_B bool.
    """
    pieces_VM, sizes_V = (jnp.asarray(part) for part in table)
    rows, turn = tokens_BT.shape
    step_1T = jnp.arange(turn)[None]
    size_BT = jnp.where(step_1T < length_B[:, None], sizes_V[tokens_BT], 0)
    end_BT = jnp.cumsum(size_BT, axis=1)
    total_B = end_BT[:, -1]
    lost_B = jnp.maximum(total_B - capacity, 0)
    start_BT = end_BT - size_BT - lost_B[:, None]
    # Each token that still shows marks its first byte with its index; a running maximum spreads the mark.
    shows_BT = (size_BT > 0) & (start_BT + size_BT > 0)
    mark_BT = jnp.where(shows_BT, jnp.maximum(start_BT, 0), capacity)
    mark_BN = jnp.zeros((rows, capacity), jnp.int32)
    mark_BN = mark_BN.at[jnp.arange(rows)[:, None], mark_BT].max(jnp.broadcast_to(step_1T, mark_BT.shape), mode="drop")
    step_BN = lax.cummax(mark_BN, axis=1)
    n_B = jnp.minimum(total_B, capacity)
    at_1N = jnp.arange(capacity)[None]
    within_BN = at_1N - jnp.take_along_axis(start_BT, step_BN, axis=1)
    byte_BN = pieces_VM[jnp.take_along_axis(tokens_BT, step_BN, axis=1), jnp.clip(within_BN, 0, pieces_VM.shape[1] - 1)]
    return jnp.where(at_1N < n_B[:, None], byte_BN, 0).astype(jnp.uint8), n_B, lost_B > 0


def find(bytes_BN: Array, word: bytes) -> Array:
    """bool [B, N]: ``word`` begins here. It does not begin where it would end past N."""
    size = bytes_BN.shape[1]
    wide_BN = jnp.pad(bytes_BN, ((0, 0), (0, len(word)))).astype(jnp.uint32)
    # Four bytes a comparison; the last window may overlap the one before.
    window_BN = wide_BN[:, :-3] | wide_BN[:, 1:-2] << 8 | wide_BN[:, 2:-1] << 16 | wide_BN[:, 3:] << 24
    found_BN = jnp.ones(bytes_BN.shape, bool)
    for at in sorted({*range(0, len(word) - 3, 4), len(word) - 4}):
        part = int.from_bytes(word[at : at + 4], "little")
        found_BN &= window_BN[:, at : at + size] == np.uint32(part)
    return found_BN


def _running_maximum(code_XBN: Array) -> Array:
    """Along the last axis, from 0 up. In doubled steps: on CPUs a third of the time of ``lax.cummax``."""
    step = 1
    while step < code_XBN.shape[-1]:
        code_XBN = jnp.maximum(code_XBN, jnp.pad(code_XBN, ((0, 0), (0, 0), (step, 0)))[:, :, :-step])
        step *= 2
    return code_XBN


class _Block(NamedTuple):
    """The last complete block of one tag (start and end bound what is inside), and how many tags."""

    complete_B: Array
    start_B: Array
    end_B: Array
    first_B: Array  # position of the first tag; N when there is none
    tags_B: Array  # opening and closing tags together


def _find_blocks(bytes_BN: Array) -> list[_Block]:
    """The last complete block of each of :data:`_BLOCKS`."""
    size = bytes_BN.shape[1]
    at_11N = jnp.arange(size)[None, None]
    open_XBN = jnp.stack([find(bytes_BN, f"<{name}>".encode()) for name in _BLOCKS])
    close_XBN = jnp.stack([find(bytes_BN, f"</{name}>".encode()) for name in _BLOCKS])
    # Even: an opening tag, odd: a closing one, 0: none yet. Half words where they suffice are twice as fast.
    code_11N = (2 * at_11N).astype(jnp.int16 if 2 * size + 2 < 2**15 else jnp.int32)
    code_XBN = jnp.where(open_XBN, code_11N + 2, jnp.where(close_XBN, code_11N + 1, 0))
    latest_XBN = _running_maximum(code_XBN)
    before_XBN = jnp.pad(latest_XBN, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
    ends_XBN = close_XBN & (before_XBN > 0) & (before_XBN % 2 == 0)
    end_XB = jnp.max(jnp.where(ends_XBN, at_11N, -1), axis=2)
    complete_XB = end_XB >= 0
    end_XB = jnp.maximum(end_XB, 0)
    opened_XB = jnp.take_along_axis(before_XBN, end_XB[:, :, None], axis=2)[:, :, 0].astype(jnp.int32) // 2 - 1
    inner_X1 = np.array([[len(f"<{name}>")] for name in _BLOCKS])
    start_XB = jnp.where(complete_XB, opened_XB + inner_X1, 0)
    tag_XBN = open_XBN | close_XBN
    first_XB = jnp.min(jnp.where(tag_XBN, at_11N, size), axis=2)
    fields = (complete_XB, start_XB, end_XB, first_XB, tag_XBN.sum(2))
    return [_Block(*(field[index] for field in fields)) for index in range(len(_BLOCKS))]


def _well_formed(bytes_BN: Array, n_B: Array, think: _Block, call: _Block, answer: _Block) -> Array:
    at_1N = jnp.arange(bytes_BN.shape[1])[None]
    acts = [
        block.complete_B & (block.tags_B == 2) & (other.tags_B == 0)
        for block, other in ((call, answer), (answer, call))
    ]
    begin_B = jnp.where(acts[0], call.first_B, answer.first_B)
    finish_B = jnp.where(acts[0], call.end_B + len("</tool_call>"), answer.end_B + len("</answer>"))
    thought_B = think.end_B + len("</think>")
    blank_BN = (bytes_BN == 32) | (bytes_BN == 9) | (bytes_BN == 10) | (bytes_BN == 13)
    in_block_BN = (at_1N >= think.first_B[:, None]) & (at_1N < thought_B[:, None])
    in_block_BN |= (at_1N >= begin_B[:, None]) & (at_1N < finish_B[:, None])
    clean_B = jnp.all(blank_BN | in_block_BN | (at_1N >= n_B[:, None]), axis=1)
    ordered_B = think.complete_B & (think.tags_B == 2) & (thought_B <= begin_B)
    return (acts[0] | acts[1]) & ordered_B & clean_B


def run_transducer(grammar: Grammar, bytes_BN: Array, start_B: Array, end_B: Array) -> tuple[Array, Array, Array]:
    """Feed bytes start…end of each row to the transducer, in step, for as long as the longest row needs.

    Returns:
      accepted_B bool: the body is of the dialect, duplicate keys aside.
      note_BU int32: per key ``8 * how often it stood + Type of its last value``.
      value_BU4 int32: the numbers of its last value; of a string, elements INDEX, LENGTH and CHECKSUM.
    """
    rows, size = bytes_BN.shape
    keys = len(grammar.keys)
    transition = jnp.asarray(grammar.transition_QX).reshape(-1)
    length_B = end_B - start_B
    key_1U = jnp.arange(keys)[None]
    slot_1N = jnp.arange(keys * 4)[None]

    def advance(at: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        state_B, key_B, number_B, checksum_B, quote_B, note_BU, value_BN = carry
        here_B = jnp.minimum(start_B + at, size - 1)
        byte_B = jnp.take_along_axis(bytes_BN, here_B[:, None], axis=1)[:, 0].astype(jnp.int32)
        entry_B = jnp.where(at < length_B, transition[state_B * 256 + byte_B], state_B)
        state_B, op_B, type_B, operand_B = unpack(entry_B)
        is_key_B, is_digit_B, is_word_B = op_B == Op.KEY, op_B == Op.DIGIT, op_B == Op.WORD
        key_B = jnp.where(is_key_B, operand_B, key_B)
        digit_B = byte_B - ord("0")
        first_B = jnp.where(operand_B & NEGATIVE > 0, -digit_B, digit_B)
        more_B = jnp.clip(number_B, -_SATURATE, _SATURATE) * 10 + jnp.where(number_B < 0, -digit_B, digit_B)
        number_B = jnp.where(is_digit_B, jnp.where(operand_B & FIRST > 0, first_B, more_B), number_B)
        mine_BU = key_1U == key_B[:, None]
        counted_BU = note_BU + jnp.where(mine_BU & is_key_B[:, None], _COUNT, 0)
        typed_BU = mine_BU & (type_B > 0)[:, None]
        note_BU = jnp.where(typed_BU, counted_BU // _COUNT * _COUNT + type_B[:, None], counted_BU)
        # A digit writes one element of its key; a word writes its index, length and checksum.
        word_B = jnp.where(is_word_B, key_B * 4, -4)
        index_B = jnp.where(is_digit_B, key_B * 4 + operand_B // ELEMENT, word_B + INDEX)
        index_or_number_B = jnp.where(is_digit_B, number_B, operand_B)
        value_BN = jnp.where(slot_1N == index_B[:, None], index_or_number_B[:, None], value_BN)
        value_BN = jnp.where(slot_1N == (word_B + LENGTH)[:, None], (at - quote_B - 1)[:, None], value_BN)
        value_BN = jnp.where(slot_1N == (word_B + CHECKSUM)[:, None], checksum_B[:, None], value_BN)
        # Bytes behind a word are summed up too, until a quote begins another one.
        quotes_B = op_B == Op.QUOTE
        quote_B = jnp.where(quotes_B, at, quote_B)
        checksum_B = jnp.where(quotes_B, 0, (checksum_B * CHECKSUM_BASE + byte_B) % CHECKSUM_MODULUS)
        return state_B, key_B, number_B, checksum_B, quote_B, note_BU, value_BN

    zero_B = jnp.zeros((rows,), jnp.int32)
    carry = (
        zero_B + grammar.start,
        zero_B + (keys - 1),
        zero_B,
        zero_B,
        zero_B,
        jnp.zeros((rows, keys), jnp.int32),
        jnp.zeros((rows, keys * 4), jnp.int32),
    )
    state_B, *_, note_BU, value_BN = lax.fori_loop(0, jnp.max(length_B), advance, carry)
    return state_B == grammar.accept, note_BU, value_BN.reshape(rows, keys, 4)


def check_call(grammar: Grammar, accepted_B: Array, note_BU: Array, value_BU4: Array) -> tuple[Array, Array, Array]:
    """Compare what stood in the body with the tools' specs.

    Args:
      accepted_B, note_BU, value_BU4: of :func:`run_transducer`.

    Returns:
      fault_B int32, tool_B int32 (-1 for none), arguments_BA int32 (zero under a fault).
    """
    tools, keys = len(grammar.tools), len(grammar.keys)
    name_key, unknown_key = keys - 3, keys - 1
    count_BU, type_BU = note_BU // _COUNT, note_BU % _COUNT
    sound_B = accepted_B & (count_BU[:, name_key] == 1) & jnp.all(count_BU[:, :unknown_key] <= 1, axis=1)
    named_B = value_BU4[:, name_key, 0]
    known_B = sound_B & (named_B < tools)
    tool_B = jnp.where(known_B, named_B, 0)

    key_JA = jnp.asarray(grammar.key_JA)
    key_BA, used_BA = jnp.maximum(key_JA, 0)[tool_B], (key_JA >= 0)[tool_B]
    type_BA = jnp.take_along_axis(type_BU, key_BA, axis=1)
    present_BA = used_BA & (jnp.take_along_axis(count_BU, key_BA, axis=1) > 0)
    element_BA = jnp.asarray(grammar.element_JA)[tool_B]
    value_BA = value_BU4[jnp.arange(key_BA.shape[0])[:, None], key_BA, element_BA]
    needed_BA = jnp.asarray(grammar.type_JA)[tool_B]
    choices = grammar.choice_JAD.shape[2] - 1
    choice_JAD = jnp.asarray(grammar.choice_JAD)
    slot_1A = jnp.arange(grammar.width)[None]
    choice_BA = choice_JAD[tool_B[:, None], slot_1A, jnp.clip(value_BA, 0, choices)]
    value_BA = jnp.where((needed_BA == Type.STRING) & (element_BA == INDEX), choice_BA, value_BA)

    strange_B = jnp.any((count_BU > 0) & ~jnp.asarray(grammar.knows_JU)[tool_B], axis=1)
    missing_B = jnp.any(used_BA & ~present_BA & jnp.asarray(grammar.required_JA)[tool_B], axis=1)
    mistyped_B = jnp.any(present_BA & (type_BA != needed_BA), axis=1)
    outside_BA = (value_BA < jnp.asarray(grammar.minimum_JA)[tool_B]) | (
        value_BA > jnp.asarray(grammar.maximum_JA)[tool_B]
    )
    outside_B = jnp.any(present_BA & outside_BA, axis=1)
    # Element 0 of a box is followed by its y1, x2, y2: compare each slot with the one two places on.
    ahead_BA = jnp.pad(value_BA, ((0, 0), (0, 2)))[:, 2:]
    corner_BA = present_BA & (needed_BA == Type.BOX) & (element_BA < 2)
    empty_B = jnp.any(corner_BA & (ahead_BA <= value_BA), axis=1)

    fault_B = jnp.select(
        [~sound_B, ~known_B, strange_B, missing_B, mistyped_B, outside_B, empty_B],
        [
            Fault.MALFORMED,
            Fault.UNKNOWN_TOOL,
            Fault.UNKNOWN_ARGUMENT,
            Fault.MISSING_ARGUMENT,
            Fault.WRONG_TYPE,
            Fault.OUT_OF_RANGE,
            Fault.EMPTY_BOX,
        ],
        Fault.NONE,
    ).astype(jnp.int32)
    arguments_BA = jnp.where(present_BA, value_BA, jnp.asarray(grammar.default_JA)[tool_B])
    arguments_BA = jnp.where((fault_B == Fault.NONE)[:, None], arguments_BA, 0)
    return fault_B, jnp.where(known_B, tool_B, -1), arguments_BA


def parse_bytes(
    grammar: Grammar, bytes_BN: Array, n_B: Array, overflow_B: Array | bool = False, answer_capacity: int = 64
) -> ParsedTurn:
    """Read turns that are bytes already.

    Args:
      grammar: of :func:`medvista_jax.text.grammar.compile_grammar`.
      bytes_BN: uint8, zero from ``n_B`` on.
      n_B: int32.
      overflow_B: bool, the row's beginning was cut off, so it is not well formed.
      answer_capacity: bytes of the longest answer that is kept.
    """
    rows, size = bytes_BN.shape
    think, call, answer = _find_blocks(bytes_BN)
    answered_B = answer.complete_B
    called_B = call.complete_B & ~answered_B
    end_B = jnp.where(called_B, call.end_B, call.start_B)  # nothing to read where there is no call
    fault_B, tool_B, arguments_BA = check_call(grammar, *run_transducer(grammar, bytes_BN, call.start_B, end_B))

    inside_B = answer.end_B - answer.start_B
    length_B = jnp.where(answered_B & (inside_B <= answer_capacity), inside_B, 0)
    at_1N = jnp.arange(answer_capacity)[None]
    answer_BN = jnp.take_along_axis(bytes_BN, jnp.minimum(answer.start_B[:, None] + at_1N, size - 1), axis=1)
    nothing_B = ~called_B & ~answered_B
    return ParsedTurn(
        kind_B=jnp.select([answered_B, called_B], [Kind.ANSWER, Kind.CALL], Kind.NOTHING).astype(jnp.int32),
        fault_B=jnp.where(called_B, fault_B, jnp.where(nothing_B, Fault.NO_ACTION, Fault.NONE)).astype(jnp.int32),
        tool_B=jnp.where(called_B, tool_B, -1),
        arguments_BA=jnp.where(called_B[:, None], arguments_BA, 0),
        well_formed_B=_well_formed(bytes_BN, n_B, think, call, answer) & ~jnp.asarray(overflow_B),
        answer_BN=jnp.where(at_1N < length_B[:, None], answer_BN, 0).astype(jnp.uint8),
        answer_length_B=length_B,
    )


def parse_turn(
    grammar: Grammar,
    table: tuple[Array, Array],
    tokens_BT: Array,
    length_B: Array,
    capacity: int = 512,
    answer_capacity: int = 64,
) -> ParsedTurn:
    """Read the sampled ids of one turn of each row.

    Args:
      grammar: of :func:`medvista_jax.text.grammar.compile_grammar`.
      table: of ``Tokenizer.token_bytes``.
      tokens_BT: int32 ids in 0…V-1; what stands behind ``length_B`` does not count.
      length_B: int32.
      capacity: bytes of a turn that are read, from its end.
      answer_capacity: bytes of the longest answer that is kept.
    """
    bytes_BN, n_B, overflow_B = gather_bytes(table, tokens_BT, length_B, capacity)
    return parse_bytes(grammar, bytes_BN, n_B, overflow_B, answer_capacity)


class Stops(NamedTuple):
    """An automaton over token ids that notices a stop string, also one that spans tokens.

    ``state_B = stops.table[state_B, token_B]`` from 0 on; ``state_B == stops.found`` from the token on that
    completes a stop string.

    Attributes:
      table: int16 [n_states, V].
      found: the absorbing state.
    """

    table: Array
    found: int


def compile_stops(
    token_bytes: tuple[np.ndarray, np.ndarray], stops: Sequence[bytes] = (b"</tool_call>", b"</answer>")
) -> Stops:
    """Aho–Corasick over bytes (Aho and Corasick 1975), then each token's bytes run from each state.

    Args:
      token_bytes: of ``Tokenizer.token_bytes``.
      stops: byte strings, none empty.

    Raises:
      ValueError: when a stop string is empty or there is none.
    """
    if not stops or not all(stops):
        raise ValueError("stop strings must not be empty")
    prefixes = sorted({stop[:end] for stop in stops for end in range(len(stop))}, key=len)
    index, found = {prefix: i for i, prefix in enumerate(prefixes)}, len(prefixes)
    step = np.zeros((found + 1, 256), np.int16)
    step[found] = found
    for prefix, state in index.items():
        for byte in range(256):
            text = prefix + bytes([byte])
            if any(text.endswith(stop) for stop in stops):
                step[state, byte] = found
            else:
                step[state, byte] = next(index[text[at:]] for at in range(len(text) + 1) if text[at:] in index)
    pieces_VM, sizes_V = token_bytes
    table = np.repeat(np.arange(found + 1, dtype=np.int16)[:, None], len(sizes_V), axis=1)
    for at in range(pieces_VM.shape[1]):
        longer = np.flatnonzero(at < sizes_V)  # few of a hub's 150,000 ids
        table[:, longer] = step[table[:, longer], pieces_VM[longer, at]]
    return Stops(table, found)
