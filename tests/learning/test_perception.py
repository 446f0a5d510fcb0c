"""Dense labels, and the loss that teaches them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medvista_jax.learning.perception import (
    PerceptionBatch,
    PerceptionConfig,
    init_head,
    labels_at,
    perception_loss,
    perception_step,
)
from medvista_jax.learning.state import split, start
from tests import tiny

CONFIG = PerceptionConfig(concepts=5, cells=2, weights=(1.0, 1.0, 3.0, 3.0), coarse_gain=8.0, kinds=(0, 1, 2, 2, 4))
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


@pytest.fixture(scope="module")
def halves():
    head = init_head(tiny.MODEL, CONFIG, jax.random.key(3))
    return split({**tiny.params(), "head": head}, ["^vision", "^connector", "^head"])


def views(count: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 16, 16, 1)).astype(np.uint8)
    return jnp.asarray(pixels), rng.integers(0, 5, (count, SIDE, SIDE)).astype(np.int32)


COARSE = np.array([False, True, False, True])


def test_loss_against_loops(halves):
    """Cell by cell in float64: which embedding names it, its weight, and the kind in place of the concept."""
    pixels, labels = views()
    loss, metrics = loss_of(tiny.MODEL, CONFIG, *halves, pixels, jnp.asarray(labels), jnp.asarray(COARSE))
    embeddings = np.asarray(jax.jit(tiny.MODEL.encode_images)(tiny.params(), pixels), np.float64)
    head = {name: np.asarray(halves[0][f"head/{name}"], np.float64) for name in ("kernel", "bias")}
    total = weights = hits = 0.0
    for b in range(4):
        for i in range(SIDE):
            for j in range(SIDE):
                embedding = embeddings[b, i // 4 * 2 + j // 4]
                logits = (embedding @ head["kernel"] + head["bias"]).reshape(4, 4, 5)[i % 4, j % 4]
                p = np.exp(logits - logits.max())
                p /= p.sum()
                label = labels[b, i, j]
                if COARSE[b]:
                    p = np.array([sum(p[k] for k in range(5) if CONFIG.kinds[k] == kind) for kind in CONFIG.kinds])
                weight = (1.0, 1.0, 3.0, 3.0, 1.0)[label]
                weight *= 8.0 if weight > 1 and COARSE[b] else 1.0
                total, weights = total - weight * np.log(p[label]), weights + weight
                hits += p[label] >= p.max() * (1 - 1e-6)
    assert float(loss) == pytest.approx(total / weights, rel=1e-4)
    assert float(metrics["accuracy"]) == pytest.approx(hits / labels.size, abs=1 / labels.size)


@pytest.mark.parametrize("coarse", [False, True])
def test_a_coarse_view_is_not_asked_for_the_class_inside_a_kind(halves, coarse):
    pixels, labels = views()
    assert (labels == 2).any() and (labels == 3).any()
    exchanged = np.where(labels == 2, 3, np.where(labels == 3, 2, labels))
    other_kind = np.where(labels == 0, 1, np.where(labels == 1, 0, labels))
    run = lambda at: float(  # noqa: E731
        loss_of(tiny.MODEL, CONFIG, *halves, pixels, jnp.asarray(at), jnp.full(4, coarse))[0]
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
    assert records[-1]["accuracy"] > records[0]["accuracy"] + 0.2
    assert all(np.isfinite(list(record.values())).all() for record in records)
    assert records[-1]["gradient_norm"] > 0
    assert frozen and all(path.startswith("decoder") for path in frozen) and tiny.same_bits(state.frozen, frozen)
