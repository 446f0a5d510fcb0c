"""Logits over a vocabulary that ``tensor`` does not divide, on eight emulated devices. One JSON line a case."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from medvista_jax.models.blocks import Decoder, DecoderConfig
from medvista_jax.runtime.mesh import AXES, make_mesh

VOCABULARY, WIDTH = 151, 32
CONFIG = DecoderConfig(
    vocab_size=VOCABULARY, width=WIDTH, layers=1, heads=4, kv_heads=2, head_dim=8, feed_forward=48, tied=False
)


def case(shape: tuple[int, ...], dtype: str, rows: int) -> dict[str, object]:
    """How far the logits and the head's gradient are from one device's, and what of the head travels."""
    decoder = Decoder(CONFIG)
    x_BTE, one = jnp.zeros((1, 1, WIDTH)), jnp.ones((1, 1), bool)
    params = decoder.init(jax.random.key(0), x_BTE, jnp.zeros((1, 1, 1), jnp.int32), one, None, 0)["params"]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, jnp.dtype(dtype)), params)
    hidden_NE = np.asarray(jax.random.normal(jax.random.key(1), (rows, WIDTH)), jnp.dtype(dtype))

    def loss(params, hidden_NE):
        logits_NV = decoder.apply({"params": params}, hidden_NE, method=Decoder.logits)
        return jnp.sum(jax.nn.log_softmax(logits_NV)[:, 7]), logits_NV

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, expected), slope = both(params, hidden_NE)
    mesh = make_mesh(dict(zip(AXES, shape, strict=True)))
    with jax.set_mesh(mesh):
        place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))  # noqa: E731
        placed = {name: jax.tree.map(place, leaf) for name, leaf in params.items()}
        placed["head"] = place(params["head"], None, "tensor")
        text = jax.jit(lambda p, h: loss(p, h)[1]).lower(placed, place(hidden_NE, ("data", "fsdp"))).compile().as_text()
        (_, logits_NV), slopes = both(placed, place(hidden_NE, ("data", "fsdp")))
    difference = lambda a, b: float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).max())  # noqa: E731
    return {
        "logits": difference(logits_NV, expected),
        "head": difference(slopes["head"], slope["head"]),
        "gathered": bool(re.search(rf"\[{VOCABULARY},{WIDTH}\][^ ]* all-gather", text)),
        "travels": sorted(set(re.findall(r" (all-[a-z]+)(?:-start)?\(", text))),
    }


if __name__ == "__main__":
    for shape in ((1, 1, 8), (2, 1, 4)):
        for dtype in ("float32", "bfloat16"):
            for rows in (8, 512):
                print(json.dumps({"shape": shape, "dtype": dtype, "rows": rows, **case(shape, dtype, rows)}))
