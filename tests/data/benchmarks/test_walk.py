"""Order, random access and going on from a state."""

from __future__ import annotations

import json

import pytest

from medvista_jax.data.benchmarks import Questions, Walk, prepare
from tests.data.benchmarks import made

N = 10


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    made.embedded(folder, "test", [(made.picture(i), f"which {i}?", "left") for i in range(N)])
    made.embedded(folder, "train", [(made.picture(0), "which?", "left")])
    prepare("vqa_rad", folder, folder / "out", subset=True)
    return Questions("vqa_rad", folder=folder / "out", subset=True)


def ids(walk):
    return [int(item.id.removeprefix("test-")) for item in walk]


def test_any_index(questions):
    assert len(questions) == N
    assert [questions[i].id for i in (7, 0, -1)] == ["test-7", "test-0", "test-9"]
    assert questions[7].images == (made.picture(7),)
    for index in (N, -N - 1):
        with pytest.raises(IndexError, match=f"question {index} of 10"):
            questions[index]


def test_the_order_is_the_seeds(questions):
    assert ids(Walk(questions)) == list(range(N))
    first = ids(Walk(questions, seed=3))
    assert sorted(first) == list(range(N)) and first != list(range(N))
    assert ids(Walk(questions, seed=3)) == first != ids(Walk(questions, seed=4))
    twice = ids(Walk(questions, seed=3, epochs=2))
    assert twice[:N] == first and sorted(twice[N:]) == list(range(N)) and twice[N:] != first


@pytest.mark.parametrize("taken", [0, 4, 13])
def test_a_state_goes_on_the_same_way(questions, taken):
    whole = ids(Walk(questions, seed=3, epochs=2))
    walk = Walk(questions, seed=3, epochs=2)
    for _ in range(taken):
        next(walk)
    state = json.loads(json.dumps(walk.state()))
    again = Walk(questions, seed=3, epochs=2)
    again.restore(state)
    assert ids(again) == whole[taken:] == ids(walk)


def test_a_state_of_another_walk_is_refused(questions):
    state = Walk(questions, seed=3).state()
    with pytest.raises(ValueError, match="seed 3, not 4"):
        Walk(questions, seed=4).restore(state)
    with pytest.raises(ValueError, match="split 'train', not 'test'"):
        Walk(questions, seed=3).restore(state | {"split": "train"})
