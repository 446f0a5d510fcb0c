"""A hundred thousand turns nobody would write, read alike by the host parser and the device transducer."""

from __future__ import annotations

import random
import re
from collections import Counter

from medvista_jax.core.types import Fault, Kind
from medvista_jax.text.compare import parse_both
from medvista_jax.text.grammar import compile_grammar
from tests.text.fuzz import random_turn
from tests.text.specs import SEVEN

TURNS, BATCH, CAPACITY = 100_000, 1_000, 256  # one compiled shape for all batches; some turns are longer
SOUGHT = {
    "random bytes": re.compile(rb"[\x00-\x08\x0e-\x1f]"),
    "nested JSON": re.compile(rb"\[\s*\[\s*\[|\{[^{}]*\{[^{}]*\{[^{}]*\{"),
    "huge numbers": re.compile(rb"\d{11}"),
    "unicode": re.compile(rb"\xe6\x97\xa5"),
    "bytes that are not UTF-8": re.compile(rb"\xff|\xed\xa0\x80"),
    "escapes": re.compile(rb"\\(?:[nt\"]|u[0-9a-f]{4})"),
    "broken escapes": re.compile(rb"\\(?:x|u12\b)"),
    "several calls": re.compile(rb"<tool_call>.*</tool_call>.*<tool_call>.*</tool_call>", re.DOTALL),
    "call and answer": re.compile(rb"</tool_call>.*</answer>|</answer>.*</tool_call>", re.DOTALL),
}
OUTCOMES = {
    (Kind.ANSWER, Fault.NONE),
    (Kind.NOTHING, Fault.NO_ACTION),
    (Kind.CALL, Fault.NONE),
    (Kind.CALL, Fault.MALFORMED),
    (Kind.CALL, Fault.UNKNOWN_TOOL),
    (Kind.CALL, Fault.UNKNOWN_ARGUMENT),
    (Kind.CALL, Fault.MISSING_ARGUMENT),
    (Kind.CALL, Fault.WRONG_TYPE),
    (Kind.CALL, Fault.OUT_OF_RANGE),
    (Kind.CALL, Fault.EMPTY_BOX),
}
"""Each is an observation of its own: what the fault says, what the tool gives, or the end of the episode."""


def test_the_parsers_agree_on_a_hundred_thousand_turns() -> None:
    rng, grammar = random.Random(2024), compile_grammar(SEVEN)
    outcomes, seen = Counter(), Counter()
    for _ in range(TURNS // BATCH):
        turns = [random_turn(rng, SEVEN) for _ in range(BATCH)]
        for turn, (host, device) in zip(turns, parse_both(SEVEN, grammar, turns, CAPACITY, 32), strict=True):
            assert host == device, turn
            outcomes[Kind[host["kind"]], Fault[host["fault"]]] += 1
        seen.update(what for turn in turns for what, pattern in SOUGHT.items() if pattern.search(turn))
    assert outcomes.total() == TURNS
    assert set(outcomes) == OUTCOMES
    assert min(outcomes.values()) > 300, outcomes
    assert all(seen[what] > 1000 for what in SOUGHT), seen
