"""Turns: tags, bytes of tokens, and the two parsers against each other."""

from __future__ import annotations

import random
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvista_jax.core.types import Kind
from medvista_jax.text.compare import as_record, parse_both, rows_of
from medvista_jax.text.grammar import compile_grammar
from medvista_jax.text.host_parser import parse_turn_text
from medvista_jax.text.parse import gather_bytes, parse_turn
from medvista_jax.text.tokenizer import SentencePieceTokenizer
from tests.text.fuzz import FRAGMENTS, random_specs, random_turn
from tests.text.specs import FIVE, SEVEN, TWO

TINY = SentencePieceTokenizer()
TABLE = TINY.token_bytes()
GRAMMAR = compile_grammar(TWO)
CALL = b'<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4]}}</tool_call>'
OTHER = b'<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [5, 6, 7, 8]}}</tool_call>'
THINK, ANSWER = b"<think>so</think>", b"<answer> A </answer>"
PARTS = [*FRAGMENTS, CALL, CALL[11:-12], ANSWER, THINK]

# turn, kind, fault, first argument, well formed, answer
TURNS = [
    (THINK + CALL, "CALL", "NONE", 1, True, ""),
    (b"\n" + THINK + b" \t\r\n" + CALL + b"\n", "CALL", "NONE", 1, True, ""),
    (THINK + ANSWER, "ANSWER", "NONE", 0, True, " A "),
    (b"<think></think><answer></answer>", "ANSWER", "NONE", 0, True, ""),
    (THINK + b"<tool_call>{</tool_call>", "CALL", "MALFORMED", 0, True, ""),
    (CALL, "CALL", "NONE", 1, False, ""),
    (ANSWER, "ANSWER", "NONE", 0, False, " A "),
    (THINK + b"x" + CALL, "CALL", "NONE", 1, False, ""),
    (THINK + CALL + b"<|im_end|>", "CALL", "NONE", 1, False, ""),
    (CALL + THINK, "CALL", "NONE", 1, False, ""),
    (THINK + THINK + CALL, "CALL", "NONE", 1, False, ""),
    (b"<think>" + CALL + b"</think>", "CALL", "NONE", 1, False, ""),
    (b"<think>" + CALL + b"</think>" + CALL, "CALL", "NONE", 1, False, ""),
    (THINK + CALL + OTHER, "CALL", "NONE", 5, False, ""),  # the last call counts
    (THINK + OTHER + CALL, "CALL", "NONE", 1, False, ""),
    (THINK + CALL + ANSWER, "ANSWER", "NONE", 0, False, " A "),  # an answer wins
    (THINK + ANSWER + CALL, "ANSWER", "NONE", 0, False, " A "),
    (THINK + ANSWER + b"<answer>B</answer>", "ANSWER", "NONE", 0, False, "B"),
    (THINK + b"<tool_call>" + CALL, "CALL", "NONE", 1, False, ""),  # the inner one is complete
    (THINK + CALL + b"</tool_call>", "CALL", "NONE", 1, False, ""),
    (THINK + CALL + b"<tool_call>", "CALL", "NONE", 1, False, ""),
    (THINK + b"<answer>A" + CALL, "CALL", "NONE", 1, False, ""),
    (THINK + b"<answer><tool_call></answer>", "ANSWER", "NONE", 0, False, "<tool_call>"),
    (b"", "NOTHING", "NO_ACTION", 0, False, ""),
    (THINK, "NOTHING", "NO_ACTION", 0, False, ""),
    (b"the answer is A", "NOTHING", "NO_ACTION", 0, False, ""),
    (THINK + CALL[:-1], "NOTHING", "NO_ACTION", 0, False, ""),
    (THINK + b"</answer>A<answer>", "NOTHING", "NO_ACTION", 0, False, ""),
    (b"</think><think>" + ANSWER, "ANSWER", "NONE", 0, False, " A "),
]


@pytest.fixture(scope="module")
def read_turns() -> list:
    return parse_both(TWO, GRAMMAR, [turn for turn, *_ in TURNS], 512)


@pytest.mark.parametrize("index", range(len(TURNS)))
def test_turn(read_turns, index) -> None:
    turn, kind, fault, first, well_formed, answer = TURNS[index]
    for record in read_turns[index]:
        assert (record["kind"], record["fault"]) == (kind, fault), turn
        assert record["arguments"][0] == first, turn
        assert record["well_formed"] == well_formed, turn
        assert record["answer"] == answer, turn


def _agree(specs, grammar, turns, capacity=384, answer_capacity=64) -> set:
    kinds = set()
    for turn, (host, device) in zip(turns, parse_both(specs, grammar, turns, capacity, answer_capacity), strict=True):
        assert host == device, turn
        kinds.add((host["kind"], host["fault"]))
    return kinds


@pytest.mark.parametrize("seed", range(7))
def test_parsers_agree_on_fuzz(seed) -> None:
    rng = random.Random(seed)
    specs = [list(TWO), list(FIVE), list(SEVEN)][seed] if seed < 3 else random_specs(rng)
    kinds = _agree(specs, compile_grammar(specs), [random_turn(rng, specs) for _ in range(4000)])
    assert {("ANSWER", "NONE"), ("NOTHING", "NO_ACTION"), ("CALL", "MALFORMED"), ("CALL", "NONE")} <= kinds
    # Both other kinds, a sound call, and every fault that text can have.
    assert seed not in (1, 2) or len(kinds) == 2 + 8


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(PARTS) | st.binary(max_size=9), max_size=12).map(b"".join),
        min_size=16,
        max_size=16,
    )
)
def test_parsers_agree_on_anything(turns) -> None:
    _agree(TWO, GRAMMAR, turns)


def test_too_long_turns_keep_their_end() -> None:
    turns = [b"<think>" + b"x" * n + b"</think>" + block for n in (0, 60, 200, 600) for block in (CALL, ANSWER)]
    _agree(TWO, GRAMMAR, turns, 128, 2)
    for host, device in parse_both(TWO, GRAMMAR, turns, 128)[4:]:
        assert host == device and host["kind"] in ("CALL", "ANSWER") and not host["well_formed"]


def _token_rows(rng: random.Random, rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.array([[rng.randrange(TINY.vocab_size) for _ in range(width)] for _ in range(rows)], np.int32)
    for row in range(0, rows, 2):
        ids = TINY.encode(random_turn(rng, TWO).decode(errors="replace"))[:width]
        tokens[row, : len(ids)] = ids
    return tokens, np.array([rng.randint(0, width) for _ in range(rows)], np.int32)


def test_bytes_of_tokens() -> None:
    tokens, lengths = _token_rows(random.Random(5), 200, 90)
    spelt = [TABLE[0][t, : TABLE[1][t]].tobytes() for t in range(TINY.vocab_size)]
    for capacity in (16, 100, 2400):
        bytes_BN, n_B, overflow_B = (
            np.asarray(x) for x in jax.jit(partial(gather_bytes, capacity=capacity))(TABLE, tokens, lengths)
        )
        assert bytes_BN.dtype == np.uint8
        for row in range(len(tokens)):
            text = b"".join(spelt[t] for t in tokens[row, : lengths[row]])
            assert overflow_B[row] == (len(text) > capacity)
            text = text[max(0, len(text) - capacity) :]
            assert n_B[row] == len(text) and bytes_BN[row].tobytes() == text.ljust(capacity, b"\0")


def test_tokens_to_parsed_turn_is_the_hosts_reading() -> None:
    rng = random.Random(6)
    spelt = [TABLE[0][t, : TABLE[1][t]].tobytes() for t in range(TINY.vocab_size)]
    device = jax.jit(partial(parse_turn, capacity=256, answer_capacity=8))
    calls = 0
    for _ in range(4):
        tokens, lengths = _token_rows(rng, 256, 80)
        lengths[::4] = 80
        for row, turn in enumerate(rows_of(device(GRAMMAR, TABLE, tokens, lengths))):
            text = b"".join(spelt[t] for t in tokens[row, : lengths[row]])
            assert as_record(turn, 5) == as_record(parse_turn_text(TWO, text, 256, 8), 5), text
            calls += turn.kind == Kind.CALL
    assert calls > 100


def test_an_answer_that_does_not_fit_is_kept_as_empty() -> None:
    """Cut to its first bytes it might have been the key."""
    turns = [f"<answer>{said}</answer>".encode() for said in ("12345678", "123456789", "12345678 ", "", "1")]
    turns.append(b"<answer>1234567890</answer><answer>right</answer>")
    kept = ["12345678", "", "", "", "1", "right"]
    for (host, device), answer in zip(parse_both(TWO, GRAMMAR, turns, 384, 8), kept, strict=True):
        assert host == device and host["answer"] == answer and host["kind"] == "ANSWER"


def test_device_parser_compiles_once() -> None:
    traces = []

    @jax.jit
    def parse(tokens, lengths):
        traces.append(1)
        return parse_turn(GRAMMAR, TABLE, tokens, lengths)

    rng = random.Random(7)
    for _ in range(3):
        out = parse(*_token_rows(rng, 8, 40))
    assert len(traces) == 1
    shapes = {name: (value.shape, value.dtype.name) for name, value in vars(out).items()}
    assert shapes == {
        "kind_B": ((8,), "int32"),
        "fault_B": ((8,), "int32"),
        "tool_B": ((8,), "int32"),
        "arguments_BA": ((8, 5), "int32"),
        "well_formed_B": ((8,), "bool"),
        "answer_BN": ((8, 64), "uint8"),
        "answer_length_B": ((8,), "int32"),
    }
