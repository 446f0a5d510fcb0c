"""Decoder blocks shared by every family: RMSNorm, rotary grouped-query attention, gated feed-forward."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.layout import along, constrain, cut, cut_unevenly, shards
from medvista_jax.core.types import Array
from medvista_jax.models.attention import ATTENTION, attend, self_attention
from medvista_jax.models.stacked import scan_layers
from medvista_jax.models.vlm import KVCache, chunk_mask, write_cache


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape of a causal decoder.

    Attributes:
      activation: key of :data:`ACTIVATIONS`; ``"relu"`` is 1.3 times faster than ``"silu"`` on a CPU.
      tied: the output embedding is the input embedding.
      qkv_bias, output_bias: whether those projections of attention have biases.
      qk_norm: RMSNorm over the head width of queries and keys before they are turned (Qwen3).
      mrope_section: how many rotary frequencies belong to time, row and column (M-RoPE, arXiv 2409.12191); empty for
        plain rotary embeddings.
      mrope_interleaved: frequencies take turns between the axes (Qwen3-VL) instead of lying in three runs (Qwen2.5-VL).
      embedding_scale: factor on input embeddings; ``None`` is the square root of the width.
      max_positions: slots beyond which the rotary frequencies would be others (the hub's "dynamic" scaling), which is
        not ported; ``None``: no such bound.
      remat: key of :data:`REMAT`, what a block keeps for its gradient.
      attention: how a sequence attends to itself, a name in :data:`medvista_jax.models.attention.ATTENTION`.
    """

    vocab_size: int
    width: int = 96
    layers: int = 3
    heads: int = 3
    kv_heads: int = 1
    head_dim: int = 32
    feed_forward: int = 256
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6
    activation: str = "silu"
    tied: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    mrope_section: tuple[int, ...] = ()
    mrope_interleaved: bool = False
    embedding_scale: float | None = None
    max_positions: int | None = None
    remat: str = "none"
    attention: str = "auto"

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            raise ValueError(f"attention {self.attention!r} is unknown; there are {', '.join(ATTENTION)}")

    def require_slots(self, slots: int) -> None:
        """Raises ValueError for a sequence, or a cache, longer than ``max_positions``."""
        if self.max_positions is not None and slots > self.max_positions:
            raise ValueError(
                f"a sequence of {slots} slots is longer than max_position_embeddings = {self.max_positions}; beyond it "
                "the model's rotary frequencies change with the length (rope_type 'dynamic'), which is not supported"
            )

    @property
    def position_axes(self) -> int:
        """Z: 3 with M-RoPE, else 1."""
        return len(self.mrope_section) or 1

    def rotary_axes(self) -> np.ndarray:
        """Which position axis turns each of the ``head_dim / 2`` frequencies: int ``[N]``."""
        count = self.head_dim // 2
        if not self.mrope_section:
            return np.zeros(count, np.int32)
        if not self.mrope_interleaved:
            return np.repeat(np.arange(len(self.mrope_section)), self.mrope_section)[:count]
        axis_N = np.zeros(count, np.int32)
        for axis in (1, 2):
            axis_N[axis : 3 * self.mrope_section[axis] : 3] = axis
        return axis_N


ACTIVATIONS = {
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
"""By the names that hub configurations use."""

REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""Which results of a block are kept for the backward pass, the rest being computed again; ``"none"`` keeps all."""


class RMSNorm(nn.Module):
    """Root-mean-square norm (arXiv 1910.07467), computed in float32."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x_NE: Array) -> Array:
        scale_E = self.param("scale", nn.initializers.ones, (x_NE.shape[-1],), jnp.float32)
        x32_NE = x_NE.astype(jnp.float32)
        inverse_N1 = jax.lax.rsqrt(jnp.mean(jnp.square(x32_NE), axis=-1, keepdims=True) + self.epsilon)
        return (x32_NE * inverse_N1 * _last_axis(scale_E, x_NE.ndim)).astype(x_NE.dtype)


def _last_axis(vector_E: Array, rank: int) -> Array:
    """A vector with leading axes of one, so that no rank is promoted silently."""
    return vector_E.reshape((1,) * (rank - 1) + vector_E.shape)


def rotary_frequencies(head_dim: int, theta: float) -> np.ndarray:
    """Angles per position, float32 ``[head_dim / 2]``, rounded as the hub's models round them (arXiv 2104.09864)."""
    exponent_N = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.float32(1.0) / np.float32(theta) ** exponent_N


def rotary_tables(positions_BTZ: Array, config: DecoderConfig) -> tuple[Array, Array]:
    """Cosine and sine ``[B, T, 1, D/2]``, each frequency at the position of its own axis."""
    frequency_N = rotary_frequencies(config.head_dim, config.rope_theta)
    position_BTN = positions_BTZ[:, :, config.rotary_axes()].astype(jnp.float32)
    angle_BTN = position_BTN * frequency_N[None, None, :]
    return jnp.cos(angle_BTN)[:, :, None, :], jnp.sin(angle_BTN)[:, :, None, :]


def rotate(x_BTHD: Array, tables: tuple[Array, Array]) -> Array:
    """Rotate halves, as Llama's and Qwen's hub weights expect."""
    cos_BT1N, sin_BT1N = tables
    first_BTHN, second_BTHN = jnp.split(x_BTHD.astype(jnp.float32), 2, axis=-1)
    turned = (
        first_BTHN * cos_BT1N - second_BTHN * sin_BT1N,
        second_BTHN * cos_BT1N + first_BTHN * sin_BT1N,
    )
    return jnp.concatenate(turned, axis=-1).astype(x_BTHD.dtype)


class Block(nn.Module):
    """Pre-norm attention and gated feed-forward."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        x_BTE: Array,
        tables: tuple[Array, Array],
        valid_BS: Array,
        layer_cache: tuple[Array, Array] | None,
        start: Array | int,
    ) -> tuple[Array, tuple[Array, Array] | None]:
        c = self.config
        batch, length, _ = x_BTE.shape

        def dense(width: int, name: str, y_BTE: Array, bias: bool = False) -> Array:
            # Rows and slots as one axis: over two, XLA's CPU compiler transposes a copy for every kernel's gradient.
            flat_NE = y_BTE.reshape(-1, y_BTE.shape[-1])
            out_NE = nn.Dense(width, use_bias=bias, name=name, dtype=x_BTE.dtype)(flat_NE)
            return out_NE.reshape(batch, length, width)

        y_BTE = RMSNorm(c.norm_epsilon, name="attention_norm")(x_BTE)
        heads = lambda count, name: dense(count * c.head_dim, name, y_BTE, c.qkv_bias).reshape(  # noqa: E731
            batch, length, count, c.head_dim
        )
        q_BTHD, k_BTKD, v_BTKD = heads(c.heads, "q"), heads(c.kv_heads, "k"), heads(c.kv_heads, "v")
        if c.qk_norm:
            q_BTHD = RMSNorm(c.norm_epsilon, name="q_norm")(q_BTHD)
            k_BTKD = RMSNorm(c.norm_epsilon, name="k_norm")(k_BTKD)
        q_BTHD, k_BTKD = rotate(q_BTHD, tables), rotate(k_BTKD, tables)
        # Queries lie where their keys do: by KV head.
        q_BTHD = q_BTHD.reshape(batch, length, c.kv_heads, -1)
        q_BTHD, k_BTKD, v_BTKD = (constrain(x, "batch", None, "heads") for x in (q_BTHD, k_BTKD, v_BTKD))
        q_BTHD = q_BTHD.reshape(batch, length, c.heads, c.head_dim)
        if layer_cache is not None:
            k_BKDS = write_cache(layer_cache[0], k_BTKD.transpose(0, 2, 3, 1), start, axis=3)
            v_BKSD = write_cache(layer_cache[1], v_BTKD.transpose(0, 2, 1, 3), start, axis=2)
            k_BKDS, v_BKSD = (constrain(x, "batch", "heads") for x in (k_BKDS, v_BKSD))
            # Without the barrier the write is fused twice, and each of the two needs a copy of the cache.
            k_BKDS, v_BKSD = layer_cache = jax.lax.optimization_barrier((k_BKDS, v_BKSD))
        if layer_cache is None or (isinstance(start, int) and start == 0 and length == valid_BS.shape[1]):
            mixed_BTE = self_attention(q_BTHD, k_BTKD, v_BTKD, valid_BS, c.attention)
        else:
            mixed_BTE = attend(q_BTHD, k_BKDS, v_BKSD, chunk_mask(valid_BS, length, start))
        x_BTE = constrain(x_BTE + dense(c.width, "o", mixed_BTE, c.output_bias), "batch")
        y_BTE = RMSNorm(c.norm_epsilon, name="feed_forward_norm")(x_BTE)
        gate_BTF = ACTIVATIONS[c.activation](dense(c.feed_forward, "gate", y_BTE))
        hidden_BTF = constrain(gate_BTF * dense(c.feed_forward, "up", y_BTE), "batch", None, "width")
        return constrain(x_BTE + dense(c.width, "down", hidden_BTF), "batch"), layer_cache


class Layer(nn.Module):
    """Any layer of a stack. It calls itself the first, since adapters know their places by name."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x_BTE: Array, tables: tuple[Array, Array], valid_BT: Array) -> Array:
        return Block(self.config, name="layer_0")(x_BTE, tables, valid_BT, None, 0)[0]


class Decoder(nn.Module):
    """Causal decoder over embeddings; layers may come as one stack (:mod:`medvista_jax.models.stacked`)."""

    config: DecoderConfig

    def setup(self) -> None:
        c = self.config
        shape, normal = (c.vocab_size, c.width), nn.initializers.normal(c.width**-0.5)
        self.embedding_VE = self.param("embedding", normal, shape)
        if not c.tied:
            self.head_VE = self.param("head", normal, shape)
        block = Block if c.remat == "none" else nn.remat(Block, policy=REMAT[c.remat])
        self.blocks = [block(c, name=f"layer_{i}") for i in range(c.layers)]
        self.final_norm = RMSNorm(c.norm_epsilon, name="final_norm")

    def embed(self, tokens_BT: Array) -> Array:
        """Embeddings. At the start they should have unit variance: far below it images would drown the text."""
        x_BTE = self.embedding_VE[tokens_BT]
        scale = self.config.embedding_scale
        scale = self.config.width**0.5 if scale is None else scale
        return x_BTE if scale == 1.0 else x_BTE * scale

    def logits(self, hidden_NE: Array) -> Array:
        """float32 ``[…, V]``."""
        head_VE = self.embedding_VE if self.config.tied else self.head_VE
        product = functools.partial(jnp.einsum, "...e,ve->...v")
        if not cut_unevenly("vocabulary", self.config.vocab_size):
            logits_NV = product(hidden_NE, head_VE).astype(jnp.float32)
            return constrain(logits_NV, "batch", *(None,) * (logits_NV.ndim - 2), "vocabulary")
        # The head lies cut by width, and as it stands would be gathered for every token. Sums over slices of the width
        # move float32 logits, slices of the vocabulary move the head: what is less.
        if 2 * hidden_NE.size < head_VE.shape[1] ** 2 * shards("batch", len(hidden_NE)):
            hidden_NE = along(hidden_NE, "batch", *(None,) * (hidden_NE.ndim - 2), "width")
            logits_NV = product(hidden_NE, head_VE, preferred_element_type=jnp.float32)
            return constrain(logits_NV, "batch").astype(head_VE.dtype).astype(jnp.float32)
        logits_NV = product(hidden_NE, cut(head_VE, 0, "vocabulary")).astype(jnp.float32)
        return cut(along(logits_NV, "batch"), -1, "vocabulary")

    def __call__(
        self,
        x_BTE: Array,
        positions_BTZ: Array,
        valid_BT: Array,
        cache: KVCache | None,
        start: Array | int,
        deepstack: tuple[Array, ...] = (),
    ) -> tuple[Array, KVCache | None]:
        """Hidden states after the last norm; see :meth:`medvista_jax.models.vlm.VisionLanguageModel.forward`.

        Args:
          deepstack: ``[B, T, E]`` each, 0 at text; the i-th is added to what layer i gives (arXiv 2406.04334).
        """
        c = self.config
        c.require_slots(valid_BT.shape[1] if cache is None else cache.valid_BS.shape[1])
        tables = rotary_tables(positions_BTZ, c)
        if cache is None:
            valid_BS = valid_BT
            start = 0
        else:
            valid_BS = write_cache(cache.valid_BS, valid_BT, start)
        x_BTE = constrain(x_BTE, "batch")
        if cache is None and self.has_variable("params", "layers"):
            stacked = {"layer_0": self.get_variable("params", "layers")}
            layer, keep = Layer(c, parent=None), None if c.remat == "none" else REMAT[c.remat]
            x_BTE = scan_layers(layer, stacked, x_BTE, (tables, valid_BS), deepstack, keep)
            return self.final_norm(x_BTE), None
        keys, values = [], []
        for i, block in enumerate(self.blocks):
            layer_cache = None if cache is None else (cache.keys[i], cache.values[i])
            x_BTE, layer_cache = block(x_BTE, tables, valid_BS, layer_cache, start)
            if i < len(deepstack):
                x_BTE = x_BTE + deepstack[i]
            if layer_cache is not None:
                keys.append(layer_cache[0])
                values.append(layer_cache[1])
        hidden_BTE = self.final_norm(x_BTE)
        if cache is None:
            return hidden_BTE, None
        return hidden_BTE, KVCache(keys=tuple(keys), values=tuple(values), valid_BS=valid_BS)


def empty_cache(config: DecoderConfig, batch: int, slots: int, dtype: Any) -> KVCache:
    """Zeros of :class:`KVCache`'s shapes, no slot valid."""
    leaves = lambda *shape: tuple(  # noqa: E731
        jnp.zeros((batch, config.kv_heads, *shape), dtype) for _ in range(config.layers)
    )
    return KVCache(
        keys=leaves(config.head_dim, slots),
        values=leaves(slots, config.head_dim),
        valid_BS=jnp.zeros((batch, slots), bool),
    )
