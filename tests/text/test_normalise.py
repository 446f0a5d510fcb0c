"""The normal form of answers, host and device."""

from __future__ import annotations

import random
import string

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvista_jax.text.compare import pad_turns
from medvista_jax.text.normalise import answers_equal, normalise, normalise_bytes

DEVICE = jax.jit(normalise_bytes)


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("", ""),
        (" ,.;! ", ""),
        ("Yes.", "yes"),
        ("  The  LEFT\n\tkidney! ", "the left kidney"),
        ("A", "a"),
        ("(B)", "b"),
        ("T2-weighted", "t2 weighted"),
        ("-5", "-5"),
        ("3 - 5", "3 5"),
        ("3-5", "3 5"),
        ("--5", "-5"),
        ("3.50 mm.", "3.50 mm"),
        ("1,000", "1 000"),
        (".5", "5"),
        ("Größe", "größe"),
        ("É", "É"),
        (b"\xff A\x00", b"\xff a"),
    ],
)
def test_literals(raw, normal) -> None:
    assert normalise(raw) == (normal.encode() if isinstance(normal, str) else normal)


def _check(texts: list[bytes]) -> None:
    bytes_BN, length_B, _ = pad_turns(texts, 64)
    garbage = np.where(np.arange(64) < length_B[:, None], bytes_BN, 65).astype(np.uint8)  # behind the end: ignored
    out_BN, n_B = (np.asarray(x) for x in DEVICE(garbage, length_B))
    for row, size, text in zip(out_BN, n_B, texts, strict=True):
        assert row[:size].tobytes() == normalise(text), text
        assert not row[size:].any()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=64) | st.text(" .-aB5\n\xff", max_size=30).map(lambda t: t.encode("latin-1")))
def test_device_equals_host(text: bytes) -> None:
    _check([text] * 4)
    assert normalise(normalise(text)) == normalise(text)


def test_device_equals_host_on_many() -> None:
    rng = random.Random(0)
    alphabet = (string.printable + "-..--55").encode() + bytes(range(0, 256, 7))
    _check([bytes(rng.choice(alphabet) for _ in range(rng.randint(0, 64))) for _ in range(5000)])


def test_equality_of_unlike_widths() -> None:
    answers, length_B, _ = pad_turns([b"yes", b"yes", b"ye", b"yes ", b"", b"a"], 5)
    keys, _, _ = pad_turns([b"yes", b"no", b"yes", b"yes", b"", b"a"], 8)
    for key in (keys, keys[:, :3]):
        assert np.asarray(answers_equal(answers, length_B, key)).tolist() == [
            True,
            False,
            False,
            False,
            False,
            True,
        ]
    long_keys, _, _ = pad_turns([b"yes yes"], 8)
    assert not answers_equal(answers[:1], length_B[:1], long_keys)[0]
