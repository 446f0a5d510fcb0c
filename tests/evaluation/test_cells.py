"""Cells: kept and found again, and the numbers made of them against scipy and plain resampling."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from medvista_jax.evaluation.cells import CROSSED, WILSON, CellStore, Outcomes, difference, estimate, shift
from medvista_jax.evaluation.statistics import crossed_bootstrap, paired_bootstrap, wilson_interval


def outcomes(correct, calls=None, seed=0, items=None, needs=None):
    n = len(correct)
    items = [f"test/x/{number}" for number in range(n)] if items is None else items
    return Outcomes(
        items=np.array(items),
        groups={"needs": np.array(needs or ["none"] * n)},
        correct=np.array(correct, bool),
        calls=np.array(calls if calls is not None else [0] * n, np.int32),
        seed=seed,
        seconds=1.25,
    )


def test_a_cell_comes_back_as_it_was_and_is_only_found_by_its_name(tmp_path):
    store = CellStore(tmp_path / "cells")
    kept = outcomes([1, 0, 1], [2, 0, 1], seed=4, needs=["none", "zoom", "zoom"])
    assert store.get("a") is None
    store.put("a", {"policy": "x"}, kept)
    found = CellStore(tmp_path / "cells").get("a")
    for name in ("items", "correct", "calls"):
        np.testing.assert_array_equal(getattr(found, name), getattr(kept, name))
        assert getattr(found, name).dtype.kind == getattr(kept, name).dtype.kind
    np.testing.assert_array_equal(found.groups["needs"], kept.groups["needs"])
    assert (found.seed, found.seconds) == (4, 1.25)
    assert store.get("b") is None
    assert json.loads((tmp_path / "cells" / "a.json").read_text())["settings"] == {"policy": "x"}


@pytest.mark.parametrize(
    "damage", ["", '{"identity": "a"', '{"identity": "b"}', "[]", '{"identity": "a", "items": [1]}']
)
def test_a_damaged_cell_is_named_and_computed_again(tmp_path, damage):
    said = []
    store = CellStore(tmp_path, said.append)
    store.put("a", {}, outcomes([1]))
    (tmp_path / "a.json").write_text(damage)
    assert store.get("a") is None and len(said) == 1 and "a.json" in said[0]


def test_groups_and_lengths():
    all_of_them = outcomes([1, 0, 1], needs=["none", "zoom", "zoom"])
    zoom = all_of_them.group("needs", "zoom")
    assert zoom.items.tolist() == ["test/x/1", "test/x/2"] and zoom.correct.tolist() == [False, True]
    assert all_of_them.group("needs", "all") is all_of_them
    with pytest.raises(ValueError, match="3 items, but 2 of calls"):
        outcomes([1, 0, 1], [0, 1])


def test_one_seed_has_wilsons_interval():
    one = estimate([outcomes([1] * 81 + [0] * 182, seed=7)])
    # Newcombe, Statistics in Medicine 17:857 (1998), table I, method 3.
    assert (one.low, one.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (one.n, one.seeds, one.interval) == (263, (7,), WILSON)


def test_seeds_and_items_against_index_resampling():
    rng = np.random.default_rng(3)
    hard_N = rng.beta(0.5, 0.5, 150)
    values_SN = (rng.random((3, 150)) < hard_N + np.array([[0.0], [0.05], [-0.1]])).astype(float)
    plain = np.random.default_rng(9)
    drawn = [values_SN[np.ix_(plain.integers(0, 3, 3), plain.integers(0, 150, 150))].mean() for _ in range(20_000)]
    ours = crossed_bootstrap(values_SN, 20_000)
    assert stats.ks_2samp(ours, drawn).pvalue > 1e-3
    found = estimate([outcomes(row, seed=seed) for seed, row in enumerate(values_SN)])
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)
    assert found.mean == pytest.approx(values_SN.mean()) and found.interval == CROSSED
    # The items are the same for all seeds: pooling the outcomes would claim too much.
    pooled = wilson_interval(int(values_SN.sum()), values_SN.size)
    assert found.high - found.low > 1.3 * (pooled[1] - pooled[0])


def test_where_all_is_right_the_interval_is_not_empty():
    found = estimate([outcomes([1] * 20, seed=seed) for seed in range(3)])
    assert found.interval == WILSON and (found.low, found.high) == wilson_interval(20, 20)


def test_differences_pair_items_and_seeds():
    rng = np.random.default_rng(5)
    base = [rng.random(200) < 0.5 for _ in range(3)]
    better = [row | (rng.random(200) < 0.2) for row in base]
    sides = [[outcomes(row, seed=seed) for seed, row in enumerate(side)] for side in (better, base)]
    found = difference(*sides)
    assert found.mean == pytest.approx(np.mean(np.array(better, float) - np.array(base, float)))
    assert 0 < found.low < found.mean < found.high and found.not_better == 0
    one = difference(sides[0][:1], sides[1][:1])
    assert one == paired_bootstrap(better[0], base[0])
    assert difference(sides[0][:2], sides[1]) is None
    assert difference([outcomes([1, 0])], [outcomes([1, 0], items=["a", "b"])]) is None
    assert difference([outcomes([1, 0])], []) is None


def test_seeds_with_other_items_are_refused():
    with pytest.raises(ValueError, match="the same items"):
        estimate([outcomes([1, 0]), outcomes([1, 0], items=["a", "b"])])
    with pytest.raises(ValueError, match="with items"):
        estimate([outcomes([])])
    with pytest.raises(ValueError, match=r"\[S, N\]"):
        crossed_bootstrap(np.ones(3))


def test_over_tooling_counts_by_hand():
    base = [outcomes([1, 1, 0, 0]), outcomes([1, 0, 0, 0])]
    now = [outcomes([0, 1, 1, 0], [1, 0, 2, 3]), outcomes([1, 1, 0, 1], [1, 1, 1, 0])]
    moved = shift(now, base)
    assert (moved.right, moved.lost, moved.calls, moved.wrong, moved.won) == (3, 1, 2, 5, 3)
    with pytest.raises(ValueError, match="same seeds"):
        shift(now, base[:1])
