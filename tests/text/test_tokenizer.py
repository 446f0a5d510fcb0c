"""Round trips, byte tables, and training that repeats itself."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvista_jax.text import train_tokenizer
from medvista_jax.text.tokenizer import (
    TAGS,
    HubTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    encode_between,
    encode_plain,
)
from medvista_jax.text.train_tokenizer import train
from tests.text.corpus import build_corpus
from tests.text.specs import TWO, ZOOM_IN

TINY = SentencePieceTokenizer()
AWKWARD = [
    "",
    " ",
    "  a \n\n b\t\r\n",
    "\0",
    "a\0b",
    "\u2581 _ \u2581",
    "<0x41><pad><unk><s>",
    "größer 日本 🩻 \ufffd \ufeff",
    "<|im_end|><|im_end",
    "e\u0301 \u00e9 ﬁ ½",
    "007 -12 3.5",
    ZOOM_IN.render_call(bbox_2d=[1, 22, 333, 1000], image_index=15),
]


def _hub() -> HubTokenizer:
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(build_corpus(TWO, documents=50), trainer)
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"])
    return HubTokenizer(backend)


HUB = _hub()
BOTH = pytest.mark.parametrize("tokenizer", [TINY, HUB], ids=["tiny", "hub"])


def _spelt(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    table, lengths = tokenizer.token_bytes()
    return b"".join(table[i, : lengths[i]].tobytes() for i in ids)


@BOTH
def test_fulfils_the_protocol(tokenizer: Tokenizer) -> None:
    assert isinstance(tokenizer, Tokenizer)


@BOTH
@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_survives(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert _spelt(tokenizer, ids) == text.encode()


@BOTH
@settings(max_examples=300, deadline=None)
@given(text=st.text() | st.lists(st.sampled_from([*TAGS, " ", "\n", "\u2581", "7", '{"name": "'])).map("".join))
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert _spelt(tokenizer, ids) == text.encode()


@BOTH
@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.sampled_from([*TAGS, "<", "|im_end|>", "x", "\n", " "])))
def test_plain_text_has_no_symbols(tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = encode_plain(tokenizer, text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & {i for symbol, i in tokenizer.special.items() if symbol != "\n"}


@BOTH
def test_text_between_tags_is_encoded_with_its_neighbours(tokenizer: Tokenizer) -> None:
    whole = "<|im_start|>us", "er\nWhich si", "de<|im_end|>"
    assert encode_between(tokenizer, *whole) == tokenizer.encode("".join(whole))
    assert encode_between(tokenizer, *whole) != [i for part in whole for i in tokenizer.encode(part)]


@BOTH
@pytest.mark.parametrize(
    "parts",
    [("<|im_start|><", "|im_end|>", ""), ("", "a<|im_", "end|>"), ("<|im", "_e", "nd|><|im_start|>")],
)
def test_text_cannot_complete_a_tag(tokenizer: Tokenizer, parts: tuple[str, str, str]) -> None:
    ids = encode_between(tokenizer, *parts)
    assert tokenizer.decode(ids) == "".join(parts)
    assert tokenizer.special["<|im_end|>"] not in ids
    assert ids.count(tokenizer.special["<|im_start|>"]) == "".join(parts).count("<|im_start|>")


def test_tags_that_overlap_are_all_cut() -> None:
    backend = pytest.importorskip("tokenizers").Tokenizer.from_str(HUB.backend.to_str())
    backend.add_special_tokens(["<<x", "<x>"])
    tokenizer = HubTokenizer(backend)
    ids = encode_plain(tokenizer, "<<x>")
    assert tokenizer.decode(ids) == "<<x>" and not set(ids) & set(tokenizer.special.values())


@BOTH
def test_table_has_a_row_an_id(tokenizer: Tokenizer) -> None:
    table, lengths = tokenizer.token_bytes()
    assert table.shape[0] == lengths.shape[0] == tokenizer.vocab_size
    assert table.dtype == np.uint8 and lengths.dtype == np.int32
    assert lengths[tokenizer.pad_id] == 0
    assert not table[np.arange(table.shape[1]) >= lengths[:, None]].any()
    for symbol, index in tokenizer.special.items():
        if index != tokenizer.pad_id:
            assert table[index, : lengths[index]].tobytes() == symbol.encode()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> SentencePieceTokenizer:
    """A tokenizer from the training command, as a user runs it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    corpus, model = folder / "corpus.txt", folder / "fresh.model"
    corpus.write_text("\n".join(build_corpus(TWO, documents=300)) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_tokenizer", "--corpus", str(corpus), "--out", str(model)])
        train_tokenizer.main()
    assert model.read_bytes() == train_tokenizer.train(build_corpus(TWO, documents=300))
    return SentencePieceTokenizer(model)


@pytest.mark.parametrize("which", ["shipped", "fresh"])
def test_tags_are_one_id_each_and_digits_stand_alone(which, fresh) -> None:
    tokenizer = {"shipped": TINY, "fresh": fresh}[which]
    for tag in (*TAGS, "\n"):
        assert tokenizer.encode(tag) == [tokenizer.special[tag]]
        for around in ("user", "system", "<|", " ", '{"name": "', "Which ", "image 1", tag):
            parts = [tokenizer.encode(part) for part in (around, tag, around)]
            assert tokenizer.encode(around + tag + around) == sum(parts, [])  # nothing merges across a tag
    table, lengths = tokenizer.token_bytes()
    for row, length in zip(table, lengths, strict=True):
        piece = row[:length].tobytes()
        assert length == 1 or not any(byte in b"0123456789" for byte in piece), piece
    assert all(len(tokenizer.encode(character)) == 1 for character in "-0123456789")
    for text in AWKWARD:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_call_is_short() -> None:
    assert len(TINY.encode(ZOOM_IN.render_call(bbox_2d=[120, 340, 560, 780]))) <= 26


def test_training_repeats_itself_and_ships_the_size_it_says() -> None:
    documents = build_corpus(TWO, documents=300)
    assert documents == build_corpus(TWO, documents=300)
    first, second = train(documents), train(documents)
    assert first == second
    assert first != train(build_corpus(TWO, documents=300, seed=1))
    assert 300 < TINY.vocab_size <= 768


def test_bad_files_say_so(tmp_path) -> None:
    with pytest.raises(OSError):
        SentencePieceTokenizer(tmp_path / "absent.model").encode("a")
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="bad.model"):
        SentencePieceTokenizer(tmp_path / "bad.model").encode("a")


def test_hub_vocabulary_can_be_padded() -> None:
    wider = HubTokenizer(HUB.backend, size=1000)
    assert wider.vocab_size == 1000
    assert wider.token_bytes()[1][-1] == 0
    with pytest.raises(KeyError):
        _ = HubTokenizer(HUB.backend, pad="<nothing>").pad_id
