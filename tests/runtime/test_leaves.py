import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.runtime.leaves import SMALL_BYTES, checksums, count_nonfinite, leaf_paths

DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "int8", "int32", "uint32", "int4", "bool", "complex64")
SPREAD = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from medvista_jax.runtime.leaves import checksums, count_nonfinite
values = np.random.default_rng(0).standard_normal((64, 6000)).astype(np.float32)
values[3, 5] = np.nan
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
leaves = {str(spec): jax.device_put(values, NamedSharding(mesh, spec)) for spec in (P("a", "b"), P(None, "b"), P())}
leaves["host"] = values
print(len(set(checksums(leaves).values())), set(count_nonfinite(leaves).values()))
"""


def by_hand(words: list[int]) -> int:
    """The formula of the docstring in Python's integers."""
    total = 0
    for index, word in enumerate(words):
        h = word ^ (index * 0x9E3779B1 % 2**32)
        h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
        total += h ^ (h >> 16)
    return total % 2**32


def test_checksum_is_the_formula():
    values = np.array([[1.0, -2.5, np.nan], [0.0, -0.0, 3e38]], np.float32)
    words = [int.from_bytes(values.reshape(-1)[k].tobytes(), "little") for k in range(6)]
    assert checksums({"a": jnp.asarray(values), "b": values}) == {"a": by_hand(words), "b": by_hand(words)}
    wide = np.array([2**40 + 7, -1])  # int64: two words each, the lower first
    assert checksums({"x": wide})["x"] == by_hand([7, 2**8, 2**32 - 1, 2**32 - 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_device_and_host_agree(dtype):
    raw = np.random.default_rng(1).integers(-8, 8, (3, SMALL_BYTES // 2 + 5))
    large = jnp.asarray(raw).astype(dtype)  # read on the device
    assert large.nbytes > SMALL_BYTES
    host = np.asarray(large)  # read on the host
    found = checksums({"device": large, "host": host})
    assert found["device"] == found["host"]


def test_any_bit_and_any_exchange_changes_it():
    values = np.arange(1, 41, dtype=np.float32)
    before = checksums({"x": values})["x"]
    for bit in range(0, 8 * values.nbytes, 7):
        raw = bytearray(values.tobytes())
        raw[bit // 8] ^= 1 << bit % 8
        assert checksums({"x": np.frombuffer(bytes(raw), np.float32)})["x"] != before
    assert checksums({"x": values[::-1]})["x"] != before
    signs = values.copy()
    signs[[3, 9]] *= -1  # the two highest bits would cancel in a plain weighted sum
    assert checksums({"x": signs})["x"] != before


def test_spread_over_devices_it_is_the_same():
    done = subprocess.run([sys.executable, "-c", SPREAD], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["1", "{(1,", "0)}"], done.stderr[-2000:]


def test_nonfinite_values_are_counted_by_kind():
    small = jnp.array([1.0, jnp.nan, jnp.inf, -jnp.inf, jnp.nan], jnp.bfloat16)
    large = jnp.zeros(SMALL_BYTES).at[7].set(jnp.inf)
    tree = {
        "small": small,
        "large": large,
        "fine": jnp.ones(3),
        "ints": jnp.arange(3),
        "key": jax.random.key(0),
        "n": 2,
    }
    assert count_nonfinite(tree) == {"small": (2, 2), "large": (0, 1)}


def test_two_leaves_of_one_path_are_refused():
    assert list(leaf_paths({"a": [1, {"b": 2}]})) == ["a/0", "a/1/b"]
    with pytest.raises(ValueError, match="same path"):
        leaf_paths({"a": {"b": 1}, "a/b": 2})
