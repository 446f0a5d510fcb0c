"""The table of names: shapes, whole tensors and slices in both directions."""

import numpy as np
import pytest

from medvista_jax.models.names import (
    Entry,
    Layout,
    flatten,
    hub_index,
    hub_rows,
    nest,
    shape_of_leaf,
    shape_on_disk,
    to_hub,
    to_leaf,
    transposed,
)

CASES = [
    (Entry("a.weight", "a/scale"), (5,), (5,)),
    (Entry("e.weight", "e/embedding"), (7, 3), (7, 3)),
    (Entry("cls", "vision/class"), (1, 1, 6), (1, 1, 6)),
    (Entry("q.weight", "q/kernel", Layout.LINEAR), (4, 6), (6, 4)),
    (Entry("p.weight", "patch/kernel", Layout.PATCHES, (5, 3, 2, 2)), (5, 3, 2, 2), (12, 5)),
    (Entry("p.weight", "patch/kernel", Layout.PATCHES, (5, 3, 2, 2, 2)), (5, 3, 2, 2, 2), (24, 5)),
]


@pytest.mark.parametrize(("entry", "hub_shape", "shape"), CASES)
def test_there_and_back(entry, hub_shape, shape):
    hub = np.arange(np.prod(hub_shape), dtype=np.float32).reshape(hub_shape)
    leaf = to_leaf(entry, hub)
    assert leaf.shape == shape == shape_of_leaf(entry, hub_shape)
    assert shape_on_disk(entry, shape) == hub_shape
    np.testing.assert_array_equal(to_hub(entry, leaf), hub)


@pytest.mark.parametrize(("entry", "hub_shape", "shape"), CASES)
def test_a_slice_is_the_slice_of_the_whole(entry, hub_shape, shape):
    hub = np.arange(np.prod(hub_shape), dtype=np.float32).reshape(hub_shape)
    index = tuple(slice(size // 3, max(size // 3 + 1, size - 1)) for size in shape)
    part = hub.reshape(hub_rows(entry, hub_shape))[hub_index(entry, index)]
    np.testing.assert_array_equal(part.T if transposed(entry) else part, to_leaf(entry, hub)[index])


def test_patches_are_flattened_channel_first():
    """The kernel's rows follow torch's unfold: channel, then row, then column of the window."""
    hub = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    leaf = to_leaf(CASES[4][0], hub)
    assert leaf[1 * 4 + 1 * 2 + 0, 1] == hub[1, 1, 1, 0]


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_a_linear_layer_is_a_matrix(shape):
    entry = Entry("q.weight", "q/kernel", Layout.LINEAR)
    with pytest.raises(ValueError, match="q.weight.*q/kernel.*matrix"):
        shape_on_disk(entry, shape)
    with pytest.raises(ValueError, match="matrix"):
        shape_of_leaf(entry, shape)


def test_patches_need_their_window():
    with pytest.raises(ValueError, match="hub_shape"):
        Entry("p.weight", "patch/kernel", Layout.PATCHES)
    with pytest.raises(ValueError, match=r"no window of \(5, 3, 2, 2\)"):
        shape_on_disk(CASES[4][0], (13, 5))


def test_trees():
    flat = {"decoder/layer_0/q/kernel": 1, "decoder/layer_0/q/bias": 2, "vision/class": 3}
    tree = nest(flat)
    assert tree == {"decoder": {"layer_0": {"q": {"kernel": 1, "bias": 2}}}, "vision": {"class": 3}}
    assert flatten(tree) == flat
    with pytest.raises(ValueError, match="twice"):
        nest([("a/b", 1), ("a/b", 2)])
    with pytest.raises(ValueError, match="leaf already"):
        nest([("a", 1), ("a/b", 2)])
