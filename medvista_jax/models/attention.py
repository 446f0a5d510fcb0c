"""Attention, behind one function for a sequence over itself and one for queries over a cache.

What a sequence attends to itself with depends on the machine: a matrix product and a softmax on a CPU, cuDNN's kernel
on a GPU, the splash kernel on a TPU, which never hold ``[T, T]`` scores. Tests show that they agree.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

from medvista_jax.core import layout
from medvista_jax.core.types import Array
from medvista_jax.models.vlm import chunk_mask

ATTENTION = ("auto", "plain", "dot_product", "splash")
"""``"plain"``: :func:`attend`. ``"dot_product"``: :func:`jax.nn.dot_product_attention`, which takes cuDNN's kernel on a
GPU in half precision. ``"splash"``: JAX's Pallas kernel for TPUs, interpreted elsewhere. ``"auto"``: what the platform
has for such a shape and dtype."""

QUERIES_AT_ONCE = 16
"""Of a row, over a cache, on an accelerator."""

_LANES = 128
"""Slots and head width that the splash kernel takes are multiples of this; slots are padded."""


def attend(q_BTHD: Array, k_BKDS: Array, v_BKSD: Array, mask_BTS: Array | None) -> Array:
    """Grouped-query attention, softmax in float32: ``[B, T, H * D]``.

    Rows without a single visible slot give finite values. Without a mask everybody sees everything. On an accelerator
    the scores of :data:`QUERIES_AT_ONCE` queries of a row exist at one time where there is a mask: those of a
    whole observation over a cache of thousands of slots would take gigabytes.
    """
    length = q_BTHD.shape[1]
    if mask_BTS is None or length <= QUERIES_AT_ONCE or layout.platform() == "cpu":
        return _attend(q_BTHD, k_BKDS, v_BKSD, mask_BTS)
    spare = -length % QUERIES_AT_ONCE

    def blocks(x_BT: Array) -> Array:
        padded_BT = jnp.pad(x_BT, ((0, 0), (0, spare)) + ((0, 0),) * (x_BT.ndim - 2))
        return padded_BT.reshape((len(x_BT), -1, QUERIES_AT_ONCE) + x_BT.shape[2:]).swapaxes(0, 1)

    block = lambda part: _attend(part[0], k_BKDS, v_BKSD, part[1])  # noqa: E731
    out_NBTE = jax.lax.map(block, (blocks(q_BTHD), blocks(mask_BTS)))
    return out_NBTE.swapaxes(0, 1).reshape(len(q_BTHD), length + spare, -1)[:, :length]


def _attend(q_BTHD: Array, k_BKDS: Array, v_BKSD: Array, mask_BTS: Array | None) -> Array:
    """:func:`attend` with all scores at once."""
    batch, length, heads, head_dim = q_BTHD.shape
    kv_heads = k_BKDS.shape[1]
    shared = heads // kv_heads
    # Queries that share keys stand side by side (M = T * shared): one matrix product a row and KV head.
    q_BKMD = q_BTHD.reshape(batch, length, kv_heads, shared, head_dim).transpose(0, 2, 1, 3, 4)
    q_BKMD = q_BKMD.reshape(batch, kv_heads, length * shared, head_dim) * head_dim**-0.5
    scores_BKMS = jnp.einsum("bkmd,bkds->bkms", q_BKMD, k_BKDS).astype(jnp.float32)
    if mask_BTS is not None:
        mask_BMS = jnp.repeat(mask_BTS, shared, axis=1) if shared > 1 else mask_BTS
        scores_BKMS = jnp.where(mask_BMS[:, None], scores_BKMS, -1e30)
    weights_BKMS = jax.nn.softmax(scores_BKMS, axis=-1).astype(v_BKSD.dtype)
    out_BKMD = jnp.einsum("bkms,bksd->bkmd", weights_BKMS, v_BKSD)
    out_BKTND = out_BKMD.reshape(batch, kv_heads, length, shared, head_dim)
    return out_BKTND.transpose(0, 2, 1, 3, 4).reshape(batch, length, heads * head_dim)


def self_attention(q_BTHD: Array, k_BTKD: Array, v_BTKD: Array, valid_BT: Array, implementation: str) -> Array:
    """Causal grouped-query attention of a sequence over its own valid slots: ``[B, T, H * D]``.

    What slots that are not valid get is finite and of no meaning; it differs between implementations.

    Args:
      implementation: of :data:`ATTENTION`.

    Raises:
      ValueError: ``"splash"`` for a head width that the kernel does not take.
    """
    if implementation == "auto":
        implementation = chosen(q_BTHD.shape, q_BTHD.dtype)
    batch, length, heads, head_dim = q_BTHD.shape
    if implementation == "splash":
        return _splash(q_BTHD, k_BTKD, v_BTKD, valid_BT).reshape(batch, length, heads * head_dim)
    mask_BTT = chunk_mask(valid_BT, length, 0)
    if implementation == "dot_product":
        # Every query sees itself at least: a kernel may divide by the sum of nothing.
        mask_B1TT = (mask_BTT | jnp.eye(length, dtype=bool)[None])[:, None]
        out_BTHD = jax.nn.dot_product_attention(q_BTHD, k_BTKD, v_BTKD, mask=mask_B1TT)
        return out_BTHD.reshape(batch, length, heads * head_dim)
    return attend(q_BTHD, k_BTKD.transpose(0, 2, 3, 1), v_BTKD.transpose(0, 2, 1, 3), mask_BTT)


def chosen(shape_BTHD: tuple[int, ...], dtype: jnp.dtype) -> str:
    """What ``"auto"`` means for queries of this shape."""
    platform = layout.platform()
    if platform == "tpu" and shape_BTHD[1] >= _LANES and shape_BTHD[3] % _LANES == 0:
        return "splash"
    if platform in ("gpu", "cuda") and dtype in (jnp.bfloat16, jnp.float16):
        return "dot_product"
    return "plain"


def _splash(q_BTHD: Array, k_BTKD: Array, v_BTKD: Array, valid_BT: Array) -> Array:
    """The kernel a row and KV head, on each device for its own rows and heads."""
    batch, length, heads, head_dim = q_BTHD.shape
    kv_heads = k_BTKD.shape[2]
    if head_dim % _LANES:
        raise ValueError(
            f"the splash kernel needs a head width that is a multiple of {_LANES}, not {head_dim}; "
            "take attention='auto'"
        )
    spare, interpret = -length % _LANES, layout.platform() != "tpu"
    pad = lambda x_BT: jnp.pad(x_BT, ((0, 0), (0, spare)) + ((0, 0),) * (x_BT.ndim - 2))  # noqa: E731
    q_BTHD, k_BTKD, v_BTKD, valid_BT = map(pad, (q_BTHD, k_BTKD, v_BTKD, valid_BT))

    def on_device(q_BTKMD: Array, k_BTKD: Array, v_BTKD: Array, valid_BT: Array) -> Array:
        kernel = _splash_kernel(heads // kv_heads, length + spare, interpret)
        # A slot that is not valid sees its like, itself at least, so that every softmax has something to sum.
        segment_BT = valid_BT.astype(jnp.int32)

        def row(q_TKMD: Array, k_TKD: Array, v_TKD: Array, segment_T: Array) -> Array:
            each = jax.vmap(lambda q, k, v: kernel(q, k, v, splash.SegmentIds(segment_T, segment_T)))
            out_KMTD = each(q_TKMD.transpose(1, 2, 0, 3), k_TKD.transpose(1, 0, 2), v_TKD.transpose(1, 0, 2))
            return out_KMTD.transpose(2, 0, 1, 3)

        return jax.vmap(row)(q_BTKMD, k_BTKD, v_BTKD, segment_BT)

    q_BTKMD = (q_BTHD * head_dim**-0.5).reshape(batch, length + spare, kv_heads, heads // kv_heads, head_dim)
    operands = (q_BTKMD, k_BTKD, v_BTKD, valid_BT)
    axes = layout.managed()
    if not axes:
        return on_device(*operands)[:, :length]
    names = (("batch", None, "heads"), ("batch", None, "heads"), ("batch", None, "heads"), ("batch",))
    places = tuple(layout.specification(x.shape, *name) for x, name in zip(operands, names, strict=True))
    shared = jax.shard_map(on_device, in_specs=places, out_specs=places[0], axis_names=axes, check_vma=False)
    return shared(*operands)[:, :length]


def _splash_kernel(shared: int, length: int, interpret: bool) -> splash.SplashAttentionKernel:
    """Causal attention of ``shared`` query heads over one KV head."""
    mask = splash_mask.MultiHeadMask([splash_mask.CausalMask((length, length))] * shared)
    size = next(size for size in (512, 256, _LANES) if length % size == 0)
    sizes = splash.BlockSizes(
        block_q=size,
        block_kv=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_q_dq=size,
        block_kv_dq=size,
    )
    return splash.make_splash_mqa_single_device(mask, block_sizes=sizes, interpret=interpret)
