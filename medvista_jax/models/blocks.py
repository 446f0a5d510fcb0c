"""Decoder blocks shared by every family: RMSNorm, rotary grouped-query attention, gated feed-forward."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array
from medvista_jax.models.vlm import KVCache, chunk_mask, write_cache


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape of a causal decoder."""

    vocab_size: int
    width: int = 96
    layers: int = 3
    heads: int = 3
    kv_heads: int = 1
    head_dim: int = 32
    feed_forward: int = 256
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6
    activation: str = "silu"  # silu (Qwen, Llama) or relu (1.3 times faster on a CPU)


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


def rotary_tables(positions_BTZ: Array, head_dim: int, theta: float) -> tuple[Array, Array]:
    """Cosine and sine ``[B, T, 1, D/2]`` of rotary embeddings (arXiv 2104.09864), first position axis."""
    exponent_N = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequency_N = theta**-exponent_N
    angle_BTN = positions_BTZ[..., :1].astype(jnp.float32) * frequency_N[None, None, :]
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


def attend(q_BTHD: Array, k_BKSD: Array, v_BKSD: Array, mask_BTS: Array) -> Array:
    """Grouped-query attention, softmax in float32. Rows without a single visible slot give finite values."""
    batch, length, heads, head_dim = q_BTHD.shape
    kv_heads = k_BKSD.shape[1]
    shared = heads // kv_heads
    # Queries that share keys stand side by side (M = T * shared): one matrix product a row and KV head.
    q_BKMD = q_BTHD.reshape(batch, length, kv_heads, shared, head_dim).transpose(0, 2, 1, 3, 4)
    q_BKMD = q_BKMD.reshape(batch, kv_heads, length * shared, head_dim) * head_dim**-0.5
    mask_BMS = jnp.repeat(mask_BTS, shared, axis=1) if shared > 1 else mask_BTS
    if length == 1:
        # Decoding: the cache is the left operand; as the right one a CPU would transpose all of it at every token.
        scores_BKSM = jax.lax.dot_general(k_BKSD, q_BKMD, (((3,), (3,)), ((0, 1), (0, 1))))
        scores_BKMS = scores_BKSM.swapaxes(2, 3)
    else:
        scores_BKMS = jnp.einsum("bkmd,bksd->bkms", q_BKMD, k_BKSD)
    scores_BKMS = jnp.where(mask_BMS[:, None], scores_BKMS.astype(jnp.float32), -1e30)
    weights_BKMS = jax.nn.softmax(scores_BKMS, axis=-1).astype(v_BKSD.dtype)
    out_BKMD = jnp.einsum("bkms,bksd->bkmd", weights_BKMS, v_BKSD)
    out_BKTND = out_BKMD.reshape(batch, kv_heads, length, shared, head_dim)
    return out_BKTND.transpose(0, 2, 1, 3, 4).reshape(batch, length, heads * head_dim)


class Block(nn.Module):
    """Pre-norm attention and gated feed-forward."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        x_BTE: Array,
        tables: tuple[Array, Array],
        mask_BTS: Array,
        layer_cache: tuple[Array, Array] | None,
        start: Array | int,
    ) -> tuple[Array, tuple[Array, Array] | None]:
        c = self.config
        dense = lambda width, name: nn.Dense(width, use_bias=False, name=name, dtype=x_BTE.dtype)  # noqa: E731
        batch, length, _ = x_BTE.shape
        y_BTE = RMSNorm(c.norm_epsilon, name="attention_norm")(x_BTE)
        q_BTHD = dense(c.heads * c.head_dim, "q")(y_BTE).reshape(batch, length, c.heads, c.head_dim)
        k_BTKD = dense(c.kv_heads * c.head_dim, "k")(y_BTE).reshape(batch, length, c.kv_heads, c.head_dim)
        v_BTKD = dense(c.kv_heads * c.head_dim, "v")(y_BTE).reshape(batch, length, c.kv_heads, c.head_dim)
        k_BKSD = rotate(k_BTKD, tables).transpose(0, 2, 1, 3)
        v_BKSD = v_BTKD.transpose(0, 2, 1, 3)
        if layer_cache is not None:
            k_BKSD = write_cache(layer_cache[0], k_BKSD, start)
            v_BKSD = write_cache(layer_cache[1], v_BKSD, start)
            # Without the barrier the write is fused twice, and each of the two needs a copy of the cache.
            k_BKSD, v_BKSD = layer_cache = jax.lax.optimization_barrier((k_BKSD, v_BKSD))
        mixed_BTE = attend(rotate(q_BTHD, tables), k_BKSD, v_BKSD, mask_BTS)
        x_BTE = x_BTE + dense(c.width, "o")(mixed_BTE)
        y_BTE = RMSNorm(c.norm_epsilon, name="feed_forward_norm")(x_BTE)
        activation = {"silu": jax.nn.silu, "relu": jax.nn.relu}[c.activation]
        gate_BTF = activation(dense(c.feed_forward, "gate")(y_BTE))
        y_BTE = dense(c.width, "down")(gate_BTF * dense(c.feed_forward, "up")(y_BTE))
        return x_BTE + y_BTE, layer_cache


class Decoder(nn.Module):
    """Causal decoder over embeddings, tied output embedding."""

    config: DecoderConfig

    def setup(self) -> None:
        c = self.config
        self.embedding_VE = self.param("embedding", nn.initializers.normal(c.width**-0.5), (c.vocab_size, c.width))
        self.blocks = [Block(c, name=f"layer_{i}") for i in range(c.layers)]
        self.final_norm = RMSNorm(c.norm_epsilon, name="final_norm")

    def embed(self, tokens_BT: Array) -> Array:
        """Embeddings, of unit variance at the start: far below it images would drown the text."""
        return self.embedding_VE[tokens_BT] * self.config.width**0.5

    def logits(self, hidden_NE: Array) -> Array:
        return jnp.einsum("...e,ve->...v", hidden_NE, self.embedding_VE).astype(jnp.float32)

    def __call__(
        self,
        x_BTE: Array,
        positions_BTZ: Array,
        valid_BT: Array,
        cache: KVCache | None,
        start: Array | int,
    ) -> tuple[Array, KVCache | None]:
        c = self.config
        tables = rotary_tables(positions_BTZ, c.head_dim, c.rope_theta)
        if cache is None:
            valid_BS = valid_BT
            start = 0
        else:
            at = (jnp.zeros((), jnp.int32), jnp.asarray(start, jnp.int32))
            valid_BS = jax.lax.dynamic_update_slice(cache.valid_BS, valid_BT, at)
        mask_BTS = chunk_mask(valid_BS, x_BTE.shape[1], start)
        keys, values = [], []
        for i, block in enumerate(self.blocks):
            layer_cache = None if cache is None else (cache.keys[i], cache.values[i])
            x_BTE, layer_cache = block(x_BTE, tables, mask_BTS, layer_cache, start)
            if layer_cache is not None:
                keys.append(layer_cache[0])
                values.append(layer_cache[1])
        hidden_BTE = self.final_norm(x_BTE)
        if cache is None:
            return hidden_BTE, None
        return hidden_BTE, KVCache(keys=tuple(keys), values=tuple(values), valid_BS=valid_BS)
