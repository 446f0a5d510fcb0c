"""Batches of the perception stage: what is looked at, and what is asked about it."""

from __future__ import annotations

import numpy as np
import pytest

from medvista_jax.core.dimensions import FRAME
from medvista_jax.data.concepts import CONCEPT, CONCEPTS, OBJECTS
from medvista_jax.data.views import NATIVE, TARGETS, object_in, perception_batch
from medvista_jax.evaluation.setting import FAMILY_WEIGHTS, Setting


@pytest.fixture(scope="module")
def pool():
    return Setting().pool("train", 120, FAMILY_WEIGHTS)


def test_first_view_is_coarse_and_the_others_are_crops(pool):
    batch = perception_batch(pool, np.arange(len(pool)), 3, np.random.default_rng(0))
    box = batch.box_B4.reshape(len(pool), 3, 4)
    side = box[..., 2] - box[..., 0]
    np.testing.assert_allclose(side, box[..., 3] - box[..., 1], atol=1e-6)
    assert box.min() >= 0 and box.max() <= 1 + 1e-6
    assert side[:, 0].min() >= 0.75 and (side[:, 0] == 1).mean() > 0.3
    assert side[:, 1:].min() >= 48 / 256 - 1e-6 and side[:, 1:].max() <= 96 / 256 + 1e-6
    assert 0.4 < np.isclose(side[:, 1:], NATIVE / 256).mean() < 0.8


def test_a_batch_is_a_function_of_its_generator(pool):
    rows = np.array([3, 50, 3])
    one, same, other = (perception_batch(pool, rows, 2, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(one.box_B4, same.box_B4) and not np.array_equal(one.box_B4, other.box_B4)


def test_targets_are_things_and_bear_their_names(pool):
    batch = perception_batch(pool, np.arange(len(pool)), 2, np.random.default_rng(1))
    checked = 0
    for row, item in enumerate(pool.items):
        assert len(item.targets) <= TARGETS
        for slot in range(TARGETS):
            box, name = batch.targets_PR4[row, slot], batch.named_PR[row, slot]
            if name < 0:
                assert not box.any()
                continue
            assert CONCEPTS[name] in OBJECTS
            np.testing.assert_allclose(box, np.array(item.targets[slot]) / FRAME, atol=1e-6)
            if item.family == "implant_shape":
                assert CONCEPTS[name] == f"implanted {item.answer}"
                checked += 1
        if item.family == "structure_visible":
            assert (batch.named_PR[row] < 0).all()  # anatomy: nothing was drawn
    assert checked > 10


def test_object_in_a_box():
    concepts = np.zeros((256, 256), np.uint8)
    concepts[64:96, 64:96] = CONCEPT["thalamus"]
    assert object_in(concepts, (200, 200, 400, 400)) == -1
    concepts[70:72, 70:72], concepts[80:83, 80:83] = CONCEPT["marker"], CONCEPT["frame"]
    assert object_in(concepts, (200, 200, 400, 400)) == CONCEPT["frame"]
    assert object_in(concepts, (200, 200, 300, 300)) == CONCEPT["marker"]
