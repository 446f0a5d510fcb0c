"""Meshes from axis sizes, and where rules put the leaves of a tree."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from medvista_jax.runtime.mesh import MeshError, abstract_mesh, axis_sizes, make_mesh, parse_mesh
from medvista_jax.runtime.sharding import accidents, place, tree_placements, tree_shardings

MESH = abstract_mesh({"fsdp": 4, "tensor": 2})
RULES = (
    (r"q/kernel$", P("fsdp", "tensor")),
    (r"kernel$", P("tensor", "fsdp")),
    (r"embedding$", P(("fsdp", "tensor"), None)),
    (r"table$", P()),
)


def leaf(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("data=1,fsdp=4,tensor=2", {"data": 1, "fsdp": 4, "tensor": 2}),
        (" tensor = 2 ", {"data": 1, "fsdp": 1, "tensor": 2}),
        ("fsdp=-1", {"data": 1, "fsdp": -1, "tensor": 1}),
        ("", {"data": 1, "fsdp": 1, "tensor": 1}),
    ],
)
def test_parse(text, sizes):
    assert parse_mesh(text) == sizes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model=2", "'model' is unknown; the axes are data, fsdp, tensor"),
        ("fsdp", "'fsdp' is not axis=size"),
        ("fsdp=two", "not axis=size"),
        ("fsdp=2,fsdp=4", "twice"),
        ("fsdp=0", "at least 1"),
        ("fsdp=-2", "at least 1"),
        ("fsdp=-1,data=-1", "only one may be -1"),
    ],
)
def test_parse_says_what_is_wrong(text, says):
    with pytest.raises(MeshError, match=says):
        parse_mesh(text)


def test_what_is_left():
    assert axis_sizes({"fsdp": -1, "tensor": 2}, 8) == {"data": 1, "fsdp": 4, "tensor": 2}
    with pytest.raises(MeshError, match="8 devices cannot be split by 3"):
        axis_sizes({"fsdp": -1, "tensor": 3}, 8)
    with pytest.raises(MeshError, match="needs devices to count"):
        abstract_mesh({"fsdp": -1})


def test_the_devices_must_fit():
    assert make_mesh(devices=jax.devices()[:1]).shape == {"data": 1, "fsdp": 1, "tensor": 1}
    with pytest.raises(MeshError, match="fsdp=4,tensor=2 needs 8 devices, here are 1.*device_count=8"):
        make_mesh({"fsdp": 4, "tensor": 2}, jax.devices()[:1])
    with pytest.raises(MeshError, match=r"needs 1 devices, here are 2.*jax.devices\(\)\[:1\]"):
        make_mesh({"fsdp": 1}, jax.devices()[:1] * 2)


def test_the_first_rule_counts():
    assert place("layer/q/kernel", leaf(8, 6), RULES, MESH).spec == P("fsdp", "tensor")
    assert place("layer/o/kernel", leaf(8, 8), RULES, MESH).spec == P("tensor", "fsdp")
    both = place("embedding", leaf(16, 3), RULES, MESH)
    assert (both.spec, both.parts, both.nbytes_per_device) == (P(("fsdp", "tensor"), None), 8, 16 * 3 * 4 // 8)
    none = place("layer/scale", leaf(8), RULES, MESH)
    assert (none.spec, none.parts, none.rule) == (P(None), 1, None)


@pytest.mark.parametrize(
    ("path", "shape", "spec", "dropped", "parts"),
    [
        ("q/kernel", (6, 6), P(None, "tensor"), ("fsdp∤6",), 2),
        ("q/kernel", (8, 7), P("fsdp", None), ("tensor∤7",), 4),
        ("q/kernel", (7, 7), P(None, None), ("fsdp∤7", "tensor∤7"), 1),
        ("embedding", (12, 3), P("fsdp", None), ("tensor∤12",), 4),
        ("embedding", (6, 3), P("tensor", None), ("fsdp∤6",), 2),
    ],
)
def test_an_axis_that_does_not_divide_is_dropped(path, shape, spec, dropped, parts):
    placement = place(path, leaf(*shape), RULES, MESH)
    assert (placement.spec, placement.dropped, placement.parts) == (spec, dropped, parts)


def test_rules_that_cannot_be_meant():
    with pytest.raises(ValueError, match="2 entries, q/kernel has shape"):
        place("q/kernel", leaf(8), RULES, MESH)
    with pytest.raises(ValueError, match="names the axis 'model'"):
        place("x", leaf(8), ((r"x", P("model")),), MESH)


def test_accidents_are_listed_largest_first():
    tree = {
        "q": {"kernel": leaf(1024, 1025)},
        "o": {"kernel": leaf(1024, 1024)},
        "other": leaf(2048, 2048),
        "small": leaf(8),
        "table": leaf(2048, 2048),
    }
    placements = tree_placements(RULES, tree, MESH)
    found = [(placement.path, why) for placement, why in accidents(placements, MESH)]
    assert found == [("other", "no rule"), ("q/kernel", "not divisible: tensor∤1025")]
    alone = abstract_mesh({"data": 8})
    assert accidents(tree_placements(RULES, tree, alone), alone) == []


def test_shardings_of_a_tree():
    mesh = make_mesh(devices=jax.devices()[:1])
    shardings = tree_shardings(RULES, {"q": {"kernel": leaf(4, 4)}, "scale": leaf(4)}, mesh)
    placed = jax.device_put({"q": {"kernel": jnp.ones((4, 4))}, "scale": jnp.ones(4)}, shardings)
    assert placed["q"]["kernel"].sharding == shardings["q"]["kernel"]


EIGHT = """
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from medvista_jax.runtime.mesh import make_mesh
from medvista_jax.runtime.sharding import tree_placements, tree_shardings
mesh = make_mesh({"fsdp": 4, "tensor": -1})
assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "tensor": 2}, mesh
tree = {"kernel": jnp.ones((8, 6)), "odd": {"kernel": jnp.ones((7, 6))}, "scale": jnp.ones(3)}
rules = ((r"kernel$", P("fsdp", "tensor")),)
placed = jax.device_put(tree, tree_shardings(rules, tree, mesh))
placements = tree_placements(rules, tree, mesh)
for leaf, placement in zip(jax.tree.leaves(placed), jax.tree.leaves(placements)):
    shards = leaf.addressable_shards
    assert len(shards) == 8 and all(s.data.nbytes == placement.nbytes_per_device for s in shards), placement
sizes = [p.nbytes_per_device for p in jax.tree.leaves(placements)]
assert sizes == [2 * 3 * 4, 7 * 3 * 4, 12], sizes
# The arithmetic without devices says the same.
from medvista_jax.runtime.mesh import abstract_mesh
assert tree_placements(rules, tree, abstract_mesh({"fsdp": 4, "tensor": 2})) == placements
"""


def test_on_eight_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", EIGHT], env=flags, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
