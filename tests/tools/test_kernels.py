"""Kernels of the tools, one row at a time, against float64 numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.core.types import Fault
from medvista_jax.tools import adjust_window, zoom_in
from medvista_jax.tools.base import RowViews, Tool
from medvista_jax.tools.registry import DEFAULT_TOOLS

SLOTS = 5


def views(boxes, sources=None, windows=None) -> RowViews:
    count = len(boxes)
    box = np.tile(np.array([0.0, 0.0, 1.0, 1.0], np.float32), (SLOTS, 1))
    box[:count] = boxes
    source = np.zeros(SLOTS, np.int32)
    source[:count] = sources or 0
    window = np.tile(np.array([0.0, 255.0], np.float32), (SLOTS, 1))
    if windows:
        window[:count] = windows
    return RowViews(jnp.asarray(source), jnp.asarray(box), jnp.asarray(window), jnp.int32(count))


def zoom(box, index, row: RowViews):
    return zoom_in.kernel(jnp.asarray([*box, index], jnp.int32), row)


def test_zoom_composes_the_boxes():
    rng = np.random.default_rng(0)
    for _ in range(20):
        low = rng.uniform(0, 0.6, 2)
        parent = np.concatenate([low, low + rng.uniform(0.05, 0.4, 2)]).astype(np.float32)
        x1, y1 = rng.integers(0, 900, 2)
        box = np.array([x1, y1, rng.integers(x1 + 1, 1001), rng.integers(y1 + 1, 1001)])
        outcome = zoom(box, 1, views([(0, 0, 1, 1), parent]))
        wide = parent.astype(np.float64)
        size = wide[2:] - wide[:2]
        expected = np.concatenate([wide[:2] + box[:2] / 1000 * size, wide[:2] + box[2:] / 1000 * size])
        assert int(outcome.fault) == Fault.NONE
        np.testing.assert_allclose(np.asarray(outcome.box_4), expected, atol=2e-7)  # two float32 roundings near 1


def test_composition_many_levels_deep_stays_inside_its_parents():
    box = np.array([0.0, 0.0, 1.0, 1.0])
    expected = box.copy()
    for inner in ((250, 100, 750, 600), (333, 0, 1000, 500), (10, 20, 990, 970), (500, 500, 1000, 1000)):
        outcome = zoom(inner, 0, views([box]))
        size = expected[2:] - expected[:2]
        expected = np.concatenate([expected[:2] + np.array(inner[:2]) / 1000 * size] * 2)
        expected[2:] = expected[:2] + (np.array(inner[2:]) - np.array(inner[:2])) / 1000 * size
        box = np.asarray(outcome.box_4)
    np.testing.assert_allclose(box, expected, atol=1e-6)


def test_zoom_inherits_source_and_window_of_the_image_it_names():
    row = views([(0, 0, 1, 1), (0, 0, 1, 1), (0.5, 0.5, 1, 1)], [0, 1, 1], [(0, 255), (7, 9), (30, 40)])
    for index, (source, window) in enumerate([(0, (0, 255)), (1, (7, 9)), (1, (30, 40))]):
        outcome = zoom((0, 0, 500, 500), index, row)
        assert int(outcome.source) == source and tuple(np.asarray(outcome.window_2)) == window
    assert np.asarray(zoom((0, 0, 500, 500), 2, row).box_4).tolist() == [0.5, 0.5, 0.75, 0.75]


@pytest.mark.parametrize("index", [-1, 2, 4, 99])
def test_images_that_are_not_there(index):
    row = views([(0, 0, 1, 1), (0, 0, 0.5, 0.5)])
    assert int(zoom((0, 0, 10, 10), index, row).fault) == Fault.NO_SUCH_IMAGE
    window = adjust_window.kernel(jnp.asarray([0, 10, index, 0, 0]), row)
    assert int(window.fault) == Fault.NO_SUCH_IMAGE


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 5, 9, 5), (9, 5, 5, 9), (0, 0, 0, 0)])
def test_boxes_without_area(box):
    assert int(zoom(box, 0, views([(0, 0, 1, 1)])).fault) == Fault.EMPTY_BOX


def test_window_keeps_the_box_and_takes_its_numbers():
    row = views([(0, 0, 1, 1), (0.25, 0.5, 0.5, 1.0)], [0, 1])
    outcome = adjust_window.kernel(jnp.asarray([100, 3000, 1, 0, 0]), row)
    assert int(outcome.fault) == Fault.NONE and int(outcome.source) == 1
    assert np.asarray(outcome.box_4).tolist() == [0.25, 0.5, 0.5, 1.0]
    assert np.asarray(outcome.window_2).tolist() == [100.0, 3000.0]


@pytest.mark.parametrize(("low", "high"), [(10, 10), (11, 10), (65_535, 0)])
def test_windows_the_wrong_way_round(low, high):
    outcome = adjust_window.kernel(jnp.asarray([low, high, 0, 0, 0]), views([(0, 0, 1, 1)]))
    assert int(outcome.fault) == Fault.OUT_OF_RANGE


def test_kernels_agree_on_types():
    """``step`` selects between the outcomes of all tools: the dtypes must not depend on the tool."""
    row = views([(0, 0, 1, 1)])
    shapes = [jax.eval_shape(tool.kernel, jnp.zeros(5, jnp.int32), row) for tool in DEFAULT_TOOLS.values()]
    kinds = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(shape)] for shape in shapes]
    assert all(kind == kinds[0] for kind in kinds)
    assert kinds[0][0] == ((), jnp.int32)


def test_registry_names_and_hashes():
    assert list(DEFAULT_TOOLS) == [tool.spec.name for tool in DEFAULT_TOOLS.values()]
    assert hash(zoom_in.TOOL) == hash(Tool(zoom_in.SPEC, zoom_in.kernel)) and zoom_in.TOOL == Tool(
        zoom_in.SPEC, zoom_in.kernel
    )
