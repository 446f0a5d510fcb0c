"""Lessons as arrays: the template's prompt, the answer behind it, and which slots carry loss."""

from __future__ import annotations

import numpy as np
import pytest

from medvista_jax.data.captions import CAPTION_PROMPT, Facts, caption, questions
from medvista_jax.data.lessons import Lessons
from medvista_jax.models.medvista_smol.packaged import packaged_folder
from medvista_jax.text.hub_chat import load_chat

FACTS = [Facts("ct"), Facts("mr", "axial", marker="left", structures=("thalamus",))]
END = "<|im_end|>"
L = 4


@pytest.fixture(scope="module")
def chat():
    return load_chat(packaged_folder())


def test_a_batch_reads_as_the_chat_it_is(chat):
    lessons = Lessons(FACTS, chat, L, END, caption_share=0.5)
    rows = np.array([0, 1] * 20)
    batch = lessons.batch(rows, np.random.default_rng(0))
    image = f"<|vision_start|>{'<|image_pad|>' * L}<|vision_end|>"
    seen = set()
    for row, tokens, feature, valid, slot in zip(rows, *batch, strict=True):
        text = chat.tokenizer.decode(tokens[valid])
        answer = chat.tokenizer.decode(tokens[slot[slot >= 0]])
        pairs = [(CAPTION_PROMPT, caption(FACTS[row])), *questions(FACTS[row])]
        (pair,) = [pair for pair in pairs if f"{image}{pair[0]}{END}" in text]
        assert answer == pair[1] + END and text.endswith(f"<|im_start|>assistant\n{answer}")
        assert feature[feature >= 0].tolist() == list(range(L)) and (tokens[feature >= 0] == 10).all()
        assert not valid[valid.sum() :].any() and slot[slot >= 0].max() == valid.sum() - 1
        seen.add((row, pair[0]))
    assert len(seen) == 2 + 4  # caption and modality; caption, modality, plane, side


def test_slots_hold_the_longest(chat):
    lessons = Lessons(FACTS, chat, L, END, caption_share=1.0)
    batch = lessons.batch(np.array([1]), np.random.default_rng(0))
    assert batch.slot_BC.shape == (1, lessons.answer_slots) and (batch.slot_BC >= 0).all()  # the longest answer
    assert batch.tokens_BT.shape == (1, lessons.slots)


def test_the_share_of_captions(chat):
    for share, expected in ((0.0, 0), (1.0, 50)):
        lessons = Lessons(FACTS, chat, L, END, share)
        batch = lessons.batch(np.ones(50, int), np.random.default_rng(0))
        texts = [chat.tokenizer.decode(row) for row in batch.tokens_BT]
        assert sum(CAPTION_PROMPT in text for text in texts) == expected
