"""Question pools: batches, budgets and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medvista_jax.data.item import AtlasItem
from medvista_jax.data.questions import QuestionPool
from medvista_jax.text.chat import CompactChat
from medvista_jax.text.normalise import normalise
from medvista_jax.tools.registry import DEFAULT_TOOLS
from tests import tiny

FAMILIES = ("one", "two")


def make_item(number: int, **changes) -> AtlasItem:
    rng = np.random.default_rng(number)
    item = AtlasItem(
        id=f"test/two/{number:06d}",
        family="two",
        needs="zoom",
        modality="mr",
        source="none",
        pixels=rng.integers(0, 255, (*tiny.CANVAS, 1)).astype(np.uint16),
        window=(0.0, 200.0 + number),
        question=f"Which one is number {number}?",
        options=("A", "B"),
        answer=" A.",
        targets=((1, 2, 3, 4 + number), (5, 6, 7, 8)),
        good_window=None,
        concepts=np.zeros(tiny.CANVAS, np.uint8),
    )
    return dataclasses.replace(item, **changes)


def make_pool(items, prompt_slots: int = 48) -> QuestionPool:
    tools = list(DEFAULT_TOOLS.values())
    return QuestionPool(items, FAMILIES, CompactChat(tiny.TOKENIZER), tools, 4, prompt_slots, turns=3)


@pytest.fixture(scope="module")
def pool():
    return make_pool([make_item(n) for n in range(4)])


def text(question, row: int) -> str:
    return tiny.TOKENIZER.decode(question.tokens_PS[row][question.valid_PS[row]])


def test_rows_are_the_items_asked_for(pool):
    question, key = pool.batch(np.array([2, 0, 2]))
    for place, number in enumerate((2, 0, 2)):
        assert f"number {number}?" in text(question, place)
        assert question.bank.window_PO2[place, 0, 1] == 200 + number
        np.testing.assert_array_equal(question.bank.pixels_POYXC[place, 0], pool.items[number].pixels)
        assert key.target_P4[place].tolist() == [1, 2, 3, 4 + number]
        assert bytes(key.answer_PN[place]).rstrip(b"\0") == normalise(" A.") == b"a"
    assert key.family_P.tolist() == [1, 1, 1] and question.bank.count_P.tolist() == [1, 1, 1]


def test_every_prompt_shows_its_image_once(pool):
    question, _ = pool.batch(np.arange(4))
    for row in range(4):
        feature = question.feature_PS[row]
        assert feature[feature >= 0].tolist() == [0, 1, 2, 3]
        assert question.valid_PS[row][feature >= 0].all()


def test_budgets_with_and_without_tools(pool):
    mixed, _ = pool.batch(np.arange(3), tools=np.array([True, False, True]))
    assert mixed.max_turns_P.tolist() == [3, 1, 3] and mixed.max_calls_P.tolist() == [2, 0, 2]
    assert "tools: zoom_in, adjust_window" in text(mixed, 0) and "tools: none" in text(mixed, 1)
    budget, _ = pool.batch(np.arange(3), tools=np.array([True, False, True]), calls=1)
    assert budget.max_calls_P.tolist() == [1, 0, 1]
    free, _ = pool.batch(np.arange(2), calls=0)
    assert free.max_calls_P.tolist() == [0, 0] and free.max_turns_P.tolist() == [3, 3]


def test_dtypes_do_not_change_from_batch_to_batch(pool):
    import jax

    kinds = lambda tree: [(leaf.dtype, leaf.shape) for leaf in jax.tree.leaves(tree)]  # noqa: E731
    assert kinds(pool.batch(np.arange(2))) == kinds(pool.batch(np.array([3, 1]), tools=False, calls=1))


def test_a_prompt_that_does_not_fit_is_named():
    long = make_item(3, question="Is it there? " * 20)
    with pytest.raises(ValueError, match=r"test/two/000003: the prompt takes \d+ tokens, more than prompt_slots=48"):
        make_pool([make_item(1), long])


def test_an_answer_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match="test/two/000001: the answer .* takes more than 32 bytes"):
        make_pool([make_item(1, answer="a" * 33)])
    make_pool([make_item(1, answer="a" * 32)])


def test_items_without_targets_have_an_empty_box():
    _, key = make_pool([make_item(0, targets=())]).batch(np.array([0]))
    assert key.target_P4.tolist() == [[0, 0, 0, 0]]
