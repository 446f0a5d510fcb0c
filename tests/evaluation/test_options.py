"""Likelihood of options against one plain forward an option, and the table of probes."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.evaluation.options import option_scores, probe_row, write_probe_tables
from tests import tiny

OPTIONS = ((7, 8, 9), (10,), (7, 11))


def test_scores_are_those_of_each_option_alone():
    model, params = tiny.MODEL, tiny.params()
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 90, (2, 9)).astype(np.int32)
    feature = np.full((2, 9), -1, np.int32)
    feature[:, 1:5] = np.arange(4)
    length = (9, 7)  # the second prompt is padded on the right
    valid = np.arange(9)[None] < np.array(length)[:, None]
    features = jnp.asarray(rng.standard_normal((2, 1, 4, 32)), jnp.float32)
    padded = np.array([[*option, *[-1] * (3 - len(option))] for option in OPTIONS], np.int32)
    scores = np.asarray(option_scores(model, params, tokens, feature, valid, features, padded))
    assert scores.shape == (2, 3)
    for row in range(2):
        for number, option in enumerate(OPTIONS):
            size = length[row]
            ids = np.concatenate([tokens[row, :size], option])[None].astype(np.int32)
            places = np.concatenate([feature[row, :size], [-1] * len(option)])[None].astype(np.int32)
            positions = jnp.arange(ids.shape[1], dtype=jnp.int32)[None, :, None]
            there = jnp.ones(ids.shape, bool)
            hidden, _ = tiny.forward(params, ids, places, features[row : row + 1], positions, there)
            logp = np.asarray(jax.nn.log_softmax(tiny.logits(params, hidden), axis=-1))[0]
            expected = sum(logp[size - 1 + k, token] for k, token in enumerate(option))
            np.testing.assert_allclose(scores[row, number], expected, atol=1e-4)


def test_table(tmp_path):
    scores = np.array([[0.0, -1.0], [-2.0, -1.0], [-3.0, -9.0], [-1.0, -2.0]])
    first = probe_row("before", "side", scores, np.array([1, 1, 1, 0]), ("left", "right"))
    assert (first.correct, first.n, first.chance, first.answers) == (2, 4, 0.5, {"left": 3, "right": 1})
    rows = [
        first,
        probe_row("before", "plane", np.eye(3), np.array([0, 1, 0]), ("axial", "coronal", "sagittal")),
        probe_row("after", "side", scores, np.array([0, 1, 0, 0]), ("left", "right")),
        probe_row("after", "plane", np.eye(3), np.array([0, 1, 2]), ("axial", "coronal", "sagittal")),
    ]
    text = write_probe_tables(tmp_path, rows, ["Split test.", "Seed 0."])
    assert text == (tmp_path / "table.md").read_text()
    assert text.splitlines() == [
        "|        |               side |              plane |",
        "| ------ | -----------------: | -----------------: |",
        "| before |   50.0 (15.0–85.0) |   66.7 (20.8–93.9) |",
        "| after  | 100.0 (51.0–100.0) | 100.0 (43.9–100.0) |",
        "| chance |               50.0 |               33.3 |",
        "| items  |                  4 |                  3 |",
        "",
        "Accuracy in percent (95 % Wilson interval). Split test. Seed 0.",
    ]
    stored = json.loads((tmp_path / "table.json").read_text())
    assert stored["protocol"] == ["Split test.", "Seed 0."]
    assert [row["accuracy"] for row in stored["rows"]] == [0.5, 2 / 3, 1.0, 1.0]
    assert stored["rows"][0]["answers"] == {"left": 3, "right": 1}
