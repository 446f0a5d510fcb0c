"""Constrained decoding: what is allowed is well formed, what is well formed in the narrow sense is allowed."""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import regex
from jax import lax

from medvista_jax.core.tool_spec import Argument, ToolSpec
from medvista_jax.text.automaton import DEAD, END, build_turn_automaton
from medvista_jax.text.compare import parse_both
from medvista_jax.text.constraint import advance, allowed, compile_constraint, mask_logits, start
from medvista_jax.text.grammar import compile_grammar
from medvista_jax.text.host_parser import parse_turn_text
from medvista_jax.text.hub_chat import load_tokenizer
from medvista_jax.text.tokenizer import SentencePieceTokenizer, pack_token_bytes
from tests.text.fuzz import fitting_value
from tests.text.hub_folders import write_folder
from tests.text.specs import FIVE, MARK, SEVEN

SPECS = (*FIVE, MARK, ToolSpec("note", "", (Argument("text", "", "string", 2, 14),)))
GRAMMAR = compile_grammar(SPECS)
STEPS, ROWS, THOUGHT = 96, 128, "<think>so</think>"
step_rows = jax.jit(advance)


@functools.cache
def tokenizer_of(name: str):
    if name == "tiny":
        return SentencePieceTokenizer()
    with tempfile.TemporaryDirectory() as folder:  # <think> and <answer> are spelt out in this one
        return load_tokenizer(write_folder(Path(folder), "qwen2.5"))


@functools.cache
def constraint_of(name: str):
    return tokenizer_of(name), jax.tree.map(jnp.asarray, compile_constraint(SPECS, tokenizer_of(name), 12))


both = pytest.mark.parametrize("name", ["tiny", "byte-level"])


@jax.jit
def random_turns(constraint, key, state_B, left_B, tilt_V):
    """Turns sampled from noise under the mask, and how many tokens until each ended."""

    def step(carry, key):
        state_B, left_B = carry
        noise_BV = 3 * jax.random.normal(key, (ROWS, constraint.vocab_size)) + tilt_V[None]
        masked_BV = mask_logits(constraint, state_B, noise_BV, left_B)
        token_B = jnp.argmax(masked_BV, axis=1).astype(jnp.int32)
        after_B = advance(constraint, state_B, token_B)
        return (after_B, left_B - 1), (token_B, state_B == END, jnp.isfinite(masked_BV).any(axis=1))

    (state_B, _), (token_TB, ended_TB, some_TB) = lax.scan(step, (state_B, left_B), jax.random.split(key, STEPS))
    return token_TB.T, state_B, (~ended_TB).sum(0), some_TB.all()


def say(tokenizer, constraint, state_B, text: str):
    """States after a text."""
    for token in tokenizer.encode(text):
        state_B = step_rows(constraint, state_B, jnp.full(state_B.shape, token))
    return state_B


def spell(tokenizer, ids) -> bytes:
    table, sizes = tokenizer.token_bytes()
    return b"".join(table[i, : sizes[i]].tobytes() for i in ids)


def tilt(tokenizer) -> np.ndarray:
    """Makes ends and calls likely, so that turns are of many kinds."""
    table, sizes = tokenizer.token_bytes()
    pieces = [table[i, : sizes[i]].tobytes() for i in range(len(sizes))]
    return np.array([4.0 if b"<" in piece or b">" in piece else 2.0 if b'"' in piece else 0 for piece in pieces])


@both
def test_random_walks_end_in_time_as_turns_that_both_parsers_read(name) -> None:
    tokenizer, constraint = constraint_of(name)
    rng = np.random.default_rng(0)
    seen = set()
    for seed in range(4):
        state_B = start(constraint, ROWS, True, jnp.arange(ROWS) % 2 == 0)
        thought = THOUGHT if seed % 2 else ""  # half of the turns think at random
        state_B = say(tokenizer, constraint, state_B, thought)
        left_B = rng.integers(np.asarray(constraint.distance_Q[state_B]), STEPS + 1)
        out = random_turns(constraint, jax.random.key(seed), state_B, jnp.asarray(left_B), tilt(tokenizer))
        tokens_BT, state_B, used_B, always_some = map(np.asarray, out)
        assert always_some and (state_B == END).all() and (used_B <= left_B).all()
        rows = zip(tokens_BT, used_B, strict=True)
        turns = [thought.encode() + spell(tokenizer, row[:used]) for row, used in rows]
        for turn, (host, device) in zip(turns, parse_both(SPECS, GRAMMAR, turns, 1024), strict=True):
            assert host == device and host["well_formed"], turn
            assert host["fault"] in ("NONE", "EMPTY_BOX") and host["kind"] in ("CALL", "ANSWER"), turn
            assert host["kind"] == "CALL" or 1 <= len(host["answer"].encode()), turn
            seen.add((host["kind"], host["fault"], host["tool"]))
    tools = {tool for kind, _, tool in seen if kind == "CALL"}
    assert tools == set(range(len(SPECS))) and ("ANSWER", "NONE", -1) in seen


@both
def test_the_start_forbids_calls_or_answers(name) -> None:
    tokenizer, constraint = constraint_of(name)
    rows = jnp.arange(ROWS)
    state_B = say(tokenizer, constraint, start(constraint, ROWS, rows % 2 == 0, rows % 4 >= 2), THOUGHT)
    left_B = jnp.full(ROWS, STEPS)
    tokens_BT, _, used_B, _ = random_turns(constraint, jax.random.key(9), state_B, left_B, tilt(tokenizer))
    rows = zip(np.asarray(tokens_BT), used_B, strict=True)
    turns = [THOUGHT.encode() + spell(tokenizer, row[:used]) for row, used in rows]
    kinds = [host["kind"] for host, _ in parse_both(SPECS, GRAMMAR, turns, 1024)]
    assert kinds[0::4] == ["CALL"] * (ROWS // 4)
    assert kinds[1::4] == kinds[3::4] == ["ANSWER"] * (ROWS // 4)
    assert set(kinds[2::4]) == {"CALL", "ANSWER"}


def walk(tables, text: bytes, mode: int = 0) -> int:
    state = tables.starts[mode]
    for byte in text:
        state = int(tables.class_next_QC[state, tables.class_X[byte]])
    return state


@pytest.fixture(scope="module")
def automaton():
    return build_turn_automaton(SEVEN, 12)


def test_rendered_calls_are_accepted_and_others_are_not(automaton) -> None:
    rng, outcomes = random.Random(3), {True: 0, False: 0}
    for _ in range(3000):
        spec = rng.choice(SEVEN)
        values = {a.name: fitting_value(rng, a) for a in spec.arguments if a.default is None or rng.random() < 0.5}
        body = spec.render_call(**values)
        if rng.random() < 0.3 and not any(a.kind == "string" for a in spec.arguments):
            body = body.replace('": ', '":').replace(", ", ",")
        turn = f"<think>so</think>\n<tool_call>{body}</tool_call>".encode()
        sound = parse_turn_text(SEVEN, turn).fault.name in ("NONE", "EMPTY_BOX")
        ends = [walk(automaton, turn, mode) == END for mode in range(3)]
        assert ends == [sound, sound, False], turn
        outcomes[sound] += 1
    assert min(outcomes.values()) > 300


@pytest.mark.parametrize("low,high", [(0, 9), (-5, 5), (-2000, 65535), (3, 3), (-20, -7), (95, 1203), (-1, 0), (0, 10)])
def test_integers_within_their_bounds_and_no_others(low, high) -> None:
    tables = build_turn_automaton([ToolSpec("t", "", (Argument("a", "", minimum=low, maximum=high),))], 1)

    def accepts(number: str) -> bool:
        call = f'<think></think><tool_call>{{"name": "t", "arguments": {{"a": {number}}}}}</tool_call>'
        return walk(tables, call.encode()) == END

    near = {*range(low - 30, low + 30), *range(high - 30, high + 30), *(10**n for n in range(7)), -1, 0, 1}
    assert {number for number in near if accepts(str(number))} == {number for number in near if low <= number <= high}
    assert not any(map(accepts, ("-0", "00", "01", "-01", "+1", "", "-", "1.0", "1e0", " 1")))


SMALL = (
    ToolSpec("a", "", (Argument("n", "", minimum=-3, maximum=12, default=0), Argument("s", "", "string", 1, 3))),
    ToolSpec("ab", "", (Argument("b", "", "boolean"), Argument("e", "", "enum", choices=("on", "off"), default=0))),
)
PLAIN, ESCAPE = rb'[^"\\<\x00-\x1f]', rb'\\["\\/bfnrt]'
PATTERN = regex.compile(
    rb"<think>(?:[^<]|<(?!/?(?:think|tool_call|answer)>))*</think>[ \t\r\n]*"
    rb"(?:<answer>[^<]{1,4}</answer>"
    rb'|<tool_call>\n?\{"name": ?"(?:'
    rb'a", ?"arguments": ?\{(?:"n": ?(?:-[1-3]|[0-9]|1[0-2]), ?)?"s": ?"(?:'
    + PLAIN + rb"{1,3}|" + ESCAPE + rb"|" + PLAIN + ESCAPE + rb"|" + ESCAPE + PLAIN + rb')"'
    rb'|ab", ?"arguments": ?\{"b": ?(?:true|false)(?:, ?"e": ?"(?:on|off)")?'
    rb")\}\}\n?</tool_call>)[ \t\r\n]*",
    regex.DOTALL,
)  # fmt: skip
"""The turns of SMALL with answers of up to four bytes, written down by hand."""


@pytest.fixture(scope="module")
def small():
    tokenizer = SentencePieceTokenizer()
    return tokenizer, jax.tree.map(jnp.asarray, compile_constraint(SMALL, tokenizer, 4))


def test_allowed_tokens_are_those_that_the_pattern_lets_follow(small) -> None:
    tokenizer, constraint = small
    table, sizes = tokenizer.token_bytes()
    pieces = [table[i, : sizes[i]].tobytes() for i in range(len(sizes))]
    tags = {f"<{slash}{tag}>" for slash in ("", "/") for tag in ("think", "tool_call", "answer")}
    banned = {index for text, index in tokenizer.special.items() if text not in tags and text != "\n"}
    may, after, rng = jax.jit(allowed), jax.jit(advance), random.Random(4)
    for walk_number in range(10):
        prefix, state_B = b"", start(constraint, 1)
        for left in range(32, 0, -1):
            (may_V,) = np.asarray(may(constraint, state_B))
            if PATTERN.fullmatch(prefix):
                assert set(np.flatnonzero(may_V)) == {tokenizer.pad_id, tokenizer.special["<|im_end|>"]}
                break
            if left % 4 == walk_number % 4:
                for token, piece in enumerate(pieces):
                    follows = bool(piece) and token not in banned and PATTERN.fullmatch(prefix + piece, partial=True)
                    assert may_V[token] == bool(follows), (prefix, piece)
            (tokens,) = np.nonzero(np.asarray(may(constraint, state_B, jnp.array([left])))[0])
            signs = [token for token in tokens if set(pieces[token]) & set(b'<>"\\')]
            token = int(rng.choice(signs if signs and rng.random() < 0.6 else tokens))
            prefix, state_B = prefix + pieces[token], after(constraint, state_B, jnp.array([token]))
        assert PATTERN.fullmatch(prefix)


def test_budgets_allow_what_still_ends_in_time_and_no_less(small) -> None:
    """Against distances counted from every transition of the vocabulary, one by one."""
    _, constraint = small
    states, vocab = len(constraint.distance_Q), constraint.vocab_size
    state_Q = jnp.arange(states)
    may_QV = np.asarray(allowed(constraint, state_Q))
    grid = jnp.meshgrid(state_Q, jnp.arange(vocab), indexing="ij")
    target_QV = np.asarray(jax.jit(advance)(constraint, grid[0].reshape(-1), grid[1].reshape(-1))).reshape(
        states, vocab
    )
    distance_Q = np.full(states, 10**6)
    distance_Q[END] = 0
    for _ in range(states):
        best_Q = np.where(may_QV, distance_Q[target_QV], 10**6).min(1) + 1
        distance_Q[2:] = np.minimum(distance_Q, best_Q)[2:]
    reachable = np.asarray(constraint.distance_Q)
    assert (distance_Q[1:] == reachable[1:]).all() and may_QV.any(1).all()
    for left in range(int(reachable.max()) + 3):
        budget_Q = np.maximum(left, distance_Q)
        wanted_QV = may_QV & (distance_Q[target_QV] + 1 <= budget_Q[:, None])
        found_QV = np.asarray(allowed(constraint, state_Q, jnp.full(states, left)))
        assert (found_QV == wanted_QV)[2:].all(), left


def test_masked_logits_are_minus_infinity_and_the_others_as_they_were(small) -> None:
    _, constraint = small
    state_B = start(constraint, 3, jnp.array([True, True, False]), False)
    logits_BV = jax.random.normal(jax.random.key(0), (3, constraint.vocab_size))
    may_BV, masked_BV = allowed(constraint, state_B), mask_logits(constraint, state_B, logits_BV)
    assert (masked_BV == jnp.where(may_BV, logits_BV, -jnp.inf)).all() and may_BV.any(1).all()


def test_the_end_and_the_dead_state_are_not_left(small) -> None:
    tokenizer, constraint = small
    ids = jnp.array([*tokenizer.encode("a<"), tokenizer.pad_id, tokenizer.special["<|im_end|>"]])
    for state in (DEAD, END):
        assert (advance(constraint, jnp.full(ids.shape, state), ids) == state).all()


class _Letters:
    """A vocabulary that lacks the byte ``>``."""

    vocab_size, pad_id, special = 256, 255, {"<|im_end|>": 255}

    def token_bytes(self):
        return pack_token_bytes([b"" if byte in b">\xff" else bytes([byte]) for byte in range(256)])


def test_what_cannot_be_compiled_is_said() -> None:
    with pytest.raises(ValueError, match="cannot spell"):
        compile_constraint(SMALL, _Letters())
    with pytest.raises(ValueError, match="at least one byte"):
        compile_constraint(SMALL, _Letters(), 0)
    with pytest.raises(ValueError, match="distinct names"):
        compile_constraint([], _Letters())
