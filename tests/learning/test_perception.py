"""Dense labels, and the loss that teaches them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medvista_jax.learning.dense_labels import NAMED, SHOWN, Labels, labels_at, names_at, places_at
from medvista_jax.learning.perception import (
    PerceptionBatch,
    PerceptionConfig,
    init_head,
    perception_loss,
    perception_step,
)
from medvista_jax.learning.state import split, start
from tests import tiny

CONFIG = PerceptionConfig(
    concepts=5, cells=2, weights=(1.0, 1.0, 3.0, 3.0), coarse_gain=8.0, kinds=(0, 1, 2, 2, 4), bins=6
)
SIDE = 8  # 4 × 4 patches, 2 × 2 labels each
loss_of = jax.jit(perception_loss, static_argnums=(0, 1))


def test_labels_against_numpy():
    rng = np.random.default_rng(0)
    concepts = rng.integers(0, 48, (3, 37, 53)).astype(np.uint8)
    low = rng.uniform(0, 0.8, (12, 2))
    box = np.concatenate([low, low + rng.uniform(0.02, 0.2, (12, 2))], axis=1).astype(np.float32)
    box[0], box[5] = (0, 0, 1, 1), (0.5, 0, 1, 0.5)
    found = np.asarray(jax.jit(labels_at, static_argnums=2)(concepts, box, 10))
    assert found.shape == (12, 10, 10) and found.dtype == np.int32
    compared = 0
    for b in range(12):
        x1, y1, x2, y2 = box[b].astype(np.float64)
        for i in range(10):
            for j in range(10):
                y, x = (y1 + (i + 0.5) / 10 * (y2 - y1)) * 37, (x1 + (j + 0.5) / 10 * (x2 - x1)) * 53
                if min(abs(y - round(y)), abs(x - round(x))) > 1e-4:  # float32 may fall on either side of an edge
                    assert found[b, i, j] == concepts[b // 4, int(y), int(x)]
                    compared += 1
    assert compared > 1000


def test_labels_of_the_whole_image_are_the_image():
    concepts = np.random.default_rng(1).integers(0, 9, (2, 6, 6)).astype(np.uint8)
    whole = jnp.tile(jnp.array([[0.0, 0, 1, 1]]), (2, 1))
    np.testing.assert_array_equal(np.asarray(labels_at(jnp.asarray(concepts), whole, 6)), concepts)


TARGETS = np.array([[[0.1, 0.2, 0.35, 0.4], [0.6, 0.55, 0.9, 0.95]], [[0.4, 0.4, 0.6, 0.6], [0, 0, 0, 0]]], np.float32)
VIEWS = np.array(
    [[0, 0, 1, 1], [0.05, 0.1, 0.55, 0.6], [0.5, 0.5, 1, 1], [0, 0, 1, 1], [0.45, 0.3, 0.7, 0.55], [0.7, 0, 1, 0.3]],
    np.float32,
)


def shown_by_counting(b: int, row: int, column: int, side: int, fine: int = 400):
    """Share of each target that an embedding's square holds, by counting points of the target."""
    x1, y1, x2, y2 = VIEWS[b].astype(np.float64)
    shares = []
    for low_x, low_y, high_x, high_y in TARGETS[b // 3].astype(np.float64):
        steps = (np.arange(fine) + 0.5) / fine
        x = (low_x + steps * (high_x - low_x) - x1) / (x2 - x1) * side
        y = (low_y + steps * (high_y - low_y) - y1) / (y2 - y1) * side
        inside = np.mean((x >= column) & (x < column + 1)) * np.mean((y >= row) & (y < row + 1))
        shares.append(inside if high_x > low_x else 0.0)
    return np.array(shares)


def test_places_and_names_against_counting():
    side, bins, named = 4, 10, np.array([[7, 9], [3, -1]], np.int32)
    places = np.asarray(jax.jit(places_at, static_argnums=(2, 3))(TARGETS, VIEWS, side, bins))
    names = np.asarray(jax.jit(names_at, static_argnums=3)(TARGETS, named, VIEWS, side))
    assert places.shape == (6, 16, 2) and names.shape == (6, 16)
    asked = 0
    for b in range(6):
        shares = np.array([shown_by_counting(b, cell // side, cell % side, side) for cell in range(side * side)])
        for cell in range(side * side):
            best = int(shares[cell].argmax())  # the targets do not touch: at most one per square here
            share, view = shares[cell, best], shares.max(axis=1).sum()
            x1, y1, x2, y2 = TARGETS[b // 3, best]
            middle = (np.array([x1 + x2, y1 + y2]) / 2 - VIEWS[b, :2]) / (VIEWS[b, 2:] - VIEWS[b, :2])
            if abs(share - SHOWN) > 0.01:
                expected = middle * bins if share > SHOWN and (0 <= middle).all() and (middle < 1).all() else (-1, -1)
                assert places[b, cell].tolist() == [int(value) for value in expected]
            if abs(share - NAMED) > 0.01 and abs(view - 0.5) > 0.01:
                assert names[b, cell] == (named[b // 3, best] if share > NAMED and view > 0.5 else -1)
                asked += names[b, cell] >= 0
    assert asked > 10 and (names == -1).sum() > 10 and (places >= 0).sum() > 10


@pytest.fixture(scope="module")
def halves():
    head = init_head(tiny.MODEL, CONFIG, jax.random.key(3))
    return split({**tiny.params(), "head": head}, ["^vision", "^connector", "^head"])


def views(count: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 16, 16, 1)).astype(np.uint8)
    return jnp.asarray(pixels), rng.integers(0, 5, (count, SIDE, SIDE)).astype(np.int32)


def labels_of(cells, coarse, seed: int = 0) -> Labels:
    rng = np.random.default_rng(seed)
    places = np.where(rng.random((len(cells), 4, 1)) < 0.5, rng.integers(0, 6, (len(cells), 4, 2)), -1)
    names = np.where(places[..., 0] >= 0, rng.integers(0, 5, (len(cells), 4)), -1)
    return jax.tree.map(jnp.asarray, Labels(cells, np.asarray(coarse), places.astype(np.int32), names.astype(np.int32)))


COARSE = np.array([False, True, False, True])


def test_loss_against_loops(halves):
    """Cell by cell in float64: which embedding names it, its weight, and the kind in place of the concept."""
    pixels, labels = views()
    loss, metrics = loss_of(tiny.MODEL, CONFIG, *halves, pixels, labels_of(labels, COARSE))
    embeddings = np.asarray(jax.jit(tiny.MODEL.encode_images)(tiny.params(), pixels), np.float64)
    head = {name: np.asarray(halves[0][f"head/{name}"], np.float64) for name in ("kernel", "bias", "place", "name")}
    total = weights = hits = 0.0
    for b in range(4):
        for i in range(SIDE):
            for j in range(SIDE):
                at = i // 4 * 2 + j // 4
                logits = (embeddings[b, at] @ head["kernel"] + head["bias"][at]).reshape(4, 4, 5)[i % 4, j % 4]
                p = np.exp(logits - logits.max())
                p /= p.sum()
                label = labels[b, i, j]
                if COARSE[b]:
                    p = np.array([sum(p[k] for k in range(5) if CONFIG.kinds[k] == kind) for kind in CONFIG.kinds])
                weight = (1.0, 1.0, 3.0, 3.0, 1.0)[label]
                weight *= 8.0 if weight > 1 and COARSE[b] else 1.0
                total, weights = total - weight * np.log(p[label]), weights + weight
                hits += p[label] >= p.max() * (1 - 1e-6)
    assert float(metrics["concept_loss"]) == pytest.approx(total / weights, rel=1e-4)
    more = labels_of(labels, COARSE)
    nll = lambda logits, label: float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])  # noqa: E731
    places = names = places_known = names_known = 0.0
    for b in range(4):
        for cell in range(4):
            if COARSE[b]:
                for axis in range(2):
                    place = int(more.places_BL2[b, cell, axis])
                    logits = (embeddings[b, cell] @ head["place"]).reshape(2, 7)[axis]
                    places, places_known = places + nll(logits, place if place >= 0 else 6), places_known + (place >= 0)
            elif (name := int(more.names_BL[b, cell])) >= 0:
                names, names_known = names + nll(embeddings[b, cell] @ head["name"], name), names_known + 1
    assert places_known > 2 and names_known > 2
    assert float(metrics["place_loss"]) == pytest.approx(places / places_known, rel=1e-4)
    assert float(metrics["name_loss"]) == pytest.approx(names / names_known, rel=1e-4)
    whole = total / weights + CONFIG.place_weight * places / places_known + CONFIG.name_weight * names / names_known
    assert float(loss) == pytest.approx(whole, rel=1e-4)
    assert float(metrics["accuracy"]) == pytest.approx(hits / labels.size, abs=1 / labels.size)


@pytest.mark.parametrize("coarse", [False, True])
def test_a_coarse_view_is_not_asked_for_the_class_inside_a_kind(halves, coarse):
    pixels, labels = views()
    assert (labels == 2).any() and (labels == 3).any()
    exchanged = np.where(labels == 2, 3, np.where(labels == 3, 2, labels))
    other_kind = np.where(labels == 0, 1, np.where(labels == 1, 0, labels))
    run = lambda at: float(  # noqa: E731
        loss_of(tiny.MODEL, CONFIG, *halves, pixels, labels_of(at, np.full(4, coarse)))[0]
    )
    if coarse:
        assert run(exchanged) == pytest.approx(run(labels), rel=1e-6)
    else:
        assert abs(run(exchanged) - run(labels)) > 1e-3
    assert abs(run(other_kind) - run(labels)) > 1e-3


def test_loss_falls_on_one_batch_and_the_decoder_stays():
    """Bands of grey are the concepts: fine and coarse views of two images."""
    rng = np.random.default_rng(4)
    concepts = np.kron(rng.integers(0, 5, (2, 4, 4)), np.ones((6, 6))).astype(np.uint8)
    box = np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0, 0, 1, 1], [0.5, 0.25, 1, 0.75]], np.float32)
    batch = jax.tree.map(
        jnp.asarray,
        PerceptionBatch(
            pixels_PYXC=(concepts * 50).astype(np.uint8)[..., None],
            concepts_PYX=concepts,
            window_B2=np.tile(np.array([0.0, 255.0], np.float32), (4, 1)),
            box_B4=box,
            targets_PR4=np.array([[[0.2, 0.2, 0.4, 0.4]], [[0.6, 0.4, 0.8, 0.6]]], np.float32),
            named_PR=np.array([[2], [3]], np.int32),
        ),
    )
    head = init_head(tiny.MODEL, CONFIG, jax.random.key(0))
    trained = ["^vision", "^connector", "^head"]
    optimizer = optax.adam(1e-2)
    state = start({**tiny.params(), "head": head}, trained, optimizer, jax.random.key(0))
    step = functools.partial(perception_step, tiny.MODEL, optimizer, CONFIG)
    frozen = jax.tree.map(np.asarray, state.frozen)
    records = []
    for _ in range(40):
        state, metrics = step(state, batch)
        records.append({name: float(value) for name, value in metrics.items()})
    assert records[-1]["loss"] < 0.2 * records[0]["loss"] and records[5]["loss"] < records[0]["loss"]
    assert records[-1]["names_right"] == 1.0 and records[-1]["place_loss"] < records[0]["place_loss"]
    assert records[-1]["accuracy"] > records[0]["accuracy"] + 0.2
    assert all(np.isfinite(list(record.values())).all() for record in records)
    assert records[-1]["gradient_norm"] > 0
    assert frozen and all(path.startswith("decoder") for path in frozen) and tiny.same_bits(state.frozen, frozen)
