"""Stop strings are noticed wherever the tokens cut them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from medvista_jax.text.parse import compile_stops
from medvista_jax.text.tokenizer import SentencePieceTokenizer, pack_token_bytes

STOPS = (b"</tool_call>", b"</answer>")


def _first_stop(pieces: list[bytes], stops) -> int | None:
    for end in range(len(pieces) + 1):
        if any(stop in b"".join(pieces[:end]) for stop in stops):
            return end
    return None


def _noticed(stops, ids: list[int]) -> int | None:
    state = 0
    for end, token in enumerate(ids, 1):
        state = stops.table[state, token]
        if state == stops.found:
            return end
    return None


@pytest.mark.parametrize("words", [STOPS, (b"aab", b"ab", b"ba<a"), (b"<<a",)])
def test_any_cut(words) -> None:
    rng = random.Random(0)
    text = b"".join(words) + b"<</"
    pieces = [b"", *{text[a:b] for a in range(len(text)) for b in range(a + 1, min(len(text), a + 5) + 1)}]
    stops = compile_stops(pack_token_bytes(pieces), words)
    assert (stops.table[stops.found] == stops.found).all()
    hits = 0
    for _ in range(2000):
        ids = [rng.randrange(len(pieces)) for _ in range(12)]
        if rng.random() < 0.5:  # spell a stop in random cuts
            word, at, ids = rng.choice(words), 0, ids[:3]
            while at < len(word):
                size = rng.randint(1, 4)
                ids.append(pieces.index(word[at : at + size]))
                at += size
        expected = _first_stop([pieces[i] for i in ids], words)
        hits += expected is not None
        assert _noticed(stops, ids) == expected
    assert hits > 500


def test_tiny_vocabulary() -> None:
    tokenizer = SentencePieceTokenizer()
    stops = compile_stops(tokenizer.token_bytes())
    for word in STOPS:
        ids = tokenizer.encode("<think>a</think>" + word.decode())
        assert _noticed(stops, ids) == len(ids)
        assert _noticed(stops, ids[:-1]) is None
        spelt = [tokenizer.encode(chr(byte))[0] for byte in word]
        assert _noticed(stops, spelt) == len(spelt)
    assert stops.table.dtype == np.int16


def test_empty_stops_are_refused() -> None:
    with pytest.raises(ValueError):
        compile_stops(SentencePieceTokenizer().token_bytes(), ())
    with pytest.raises(ValueError):
        compile_stops(SentencePieceTokenizer().token_bytes(), (b"",))
