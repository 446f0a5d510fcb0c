"""``medvista-tiny``: ViT encoder, two-layer connector and causal decoder in Flax Linen."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from medvista_jax.core.types import Array, Params
from medvista_jax.models import decoder_params
from medvista_jax.models.adaptable import Adaptable
from medvista_jax.models.blocks import Decoder, DecoderConfig, empty_cache
from medvista_jax.models.vlm import Features, KVCache, mix_embeddings, sequential_positions
from medvista_jax.runtime.sharding import Rules

RULES: Rules = (
    *decoder_params.RULES,
    (r"^(vision|connector)/(.*/)?(stem_fine|stem_in|up)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"^(vision|connector)/(.*/)?(stem_out|down)/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"^vision/.*/(query|key|value)/kernel$", PartitionSpec("fsdp", "tensor", None)),
    (r"^vision/.*/out/kernel$", PartitionSpec("tensor", None, "fsdp")),
)
"""(regex on the path, specification); the first that is found counts."""


@dataclasses.dataclass(frozen=True)
class MedVistaTinyConfig:
    """Sizes. ``image`` pixels a side, ``patch`` pixels a patch, an embedding for every 2×2 patches."""

    vocab_size: int = 768
    image: int = 64
    patch: int = 8
    channels: int = 1
    stem_channels: int = 32
    vision_width: int = 64
    vision_layers: int = 1
    vision_heads: int = 4
    decoder: DecoderConfig | None = None

    def decoder_config(self) -> DecoderConfig:
        return self.decoder or DecoderConfig(vocab_size=self.vocab_size, activation="relu")


class VisionBlock(nn.Module):
    """Pre-norm bidirectional attention and ReLU feed-forward."""

    heads: int

    @nn.compact
    def __call__(self, x_NLE: Array) -> Array:
        width = x_NLE.shape[-1]
        y_NLE = nn.LayerNorm(name="attention_norm")(x_NLE)
        x_NLE = x_NLE + nn.MultiHeadDotProductAttention(self.heads, name="attention")(y_NLE)
        y_NLE = nn.LayerNorm(name="feed_forward_norm")(x_NLE)
        y_NLE = nn.Dense(width, name="down")(nn.relu(nn.Dense(4 * width, name="up")(y_NLE)))
        return x_NLE + y_NLE


def windows(x_NyxC: Array, cell: int) -> Array:
    """Overlapping windows of ``2 cell`` a side, ``cell`` apart: ``[N, y/cell, x/cell, 4·cell²·C]``.

    What a stride-``cell`` convolution sees, as slices of a reshape: on a CPU its gradient is a plain matrix product.
    """
    count, height, width, channels = x_NyxC.shape
    before, after = cell // 2, cell - cell // 2
    x = jnp.pad(x_NyxC, ((0, 0), (before, after), (before, after), (0, 0)), mode="edge")
    rows, columns = height // cell + 1, width // cell + 1
    x = x.reshape(count, rows, cell, columns, cell, channels).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(count, rows, columns, cell * cell * channels)
    return jnp.concatenate([x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]], axis=-1)


class VisionTower(nn.Module):
    """Patches of a view to one vector a patch: ``[N, (h/p)·(w/p), vision_width]``, row-major.

    The stem is two overlapping reductions, half a patch and then two: with patches cut once and apart, a small target
    would have to be learned anew for every way of lying across their borders.
    """

    config: MedVistaTinyConfig

    @nn.compact
    def __call__(self, pixels_NhwC: Array) -> Array:
        c = self.config
        count, side = pixels_NhwC.shape[0], c.image // c.patch
        x = windows((pixels_NhwC.astype(jnp.float32) - 127.5) / 64.0, c.patch // 2)
        # Brightness and texture apart: fine texture is faint beside the brightness of a window.
        mean = jnp.mean(x, axis=-1, keepdims=True)
        x = jnp.concatenate([2.0 * (x - mean), mean], axis=-1)
        x = windows(nn.relu(nn.Dense(c.stem_channels, name="stem_fine")(x)), 2)
        x = nn.relu(nn.Dense(2 * c.vision_width, name="stem_in")(x))
        x_NLE = nn.Dense(c.vision_width, name="stem_out")(x).reshape(count, side * side, c.vision_width)
        position_LE = self.param("position", nn.initializers.normal(0.5), (side * side, c.vision_width))
        x_NLE = x_NLE + position_LE[None]
        for i in range(c.vision_layers):
            x_NLE = VisionBlock(c.vision_heads, name=f"block_{i}")(x_NLE)
        return nn.LayerNorm(name="final_norm")(x_NLE)


class Connector(nn.Module):
    """Windows of 4×4 patches, two apart, to one decoder embedding each."""

    config: MedVistaTinyConfig

    @nn.compact
    def __call__(self, x_NLE: Array) -> Array:
        c = self.config
        count, side, width = x_NLE.shape[0], c.image // c.patch, c.decoder_config().width
        x_NLE = windows(x_NLE.reshape(count, side, side, c.vision_width), 2).reshape(count, (side // 2) ** 2, -1)
        x_NLE = nn.relu(nn.Dense(3 * width, name="up")(x_NLE))
        # No position is added: what is the same in every image would drown what is seen. The tower knows where it is.
        return nn.Dense(width, name="down")(x_NLE)


@dataclasses.dataclass(frozen=True)
class MedVistaTiny(Adaptable):
    """The model as pure functions; see :class:`medvista_jax.models.vlm.VisionLanguageModel`."""

    config: MedVistaTinyConfig = MedVistaTinyConfig()

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def dtype(self) -> str:
        return "float32"

    @property
    def tokens_per_image(self) -> int:
        return (self.config.image // self.config.patch // 2) ** 2

    @property
    def image_size(self) -> tuple[int, int]:
        return self.config.image, self.config.image

    @property
    def position_axes(self) -> int:
        return 1

    def decoder(self) -> nn.Module:
        """The decoder as a module over ``params["decoder"]``."""
        return self.module(Decoder(self.config.decoder_config()), "decoder")

    def init(self, key: Array) -> Params:
        c = self.config
        key_vision, key_connector, key_decoder = jax.random.split(key, 3)
        pixels = jnp.zeros((1, c.image, c.image, c.channels), jnp.uint8)
        patches = jnp.zeros((1, (c.image // c.patch) ** 2, c.vision_width), jnp.float32)
        embeddings = jnp.zeros((1, 1, c.decoder_config().width), jnp.float32)
        token = jnp.zeros((1, 1), jnp.int32)
        return {
            "vision": self.module(VisionTower(c), "vision").init(key_vision, pixels)["params"],
            "connector": self.module(Connector(c), "connector").init(key_connector, patches)["params"],
            "decoder": self.decoder().init(key_decoder, embeddings, token[..., None], token == 0, None, 0)["params"],
        }

    def encode_patches(self, params: Params, pixels_NhwC: Array) -> Array:
        """Vision tower alone: ``[N, patches, vision_width]``; the perception stage trains this."""
        return self.module(VisionTower(self.config), "vision").apply({"params": params["vision"]}, pixels_NhwC)

    def encode_images(self, params: Params, pixels_NhwC: Array) -> Features:
        patches_NLE = self.encode_patches(params, pixels_NhwC)
        connector = self.module(Connector(self.config), "connector")
        return connector.apply({"params": params["connector"]}, patches_NLE)

    def init_cache(self, batch: int, slots: int, dtype: Any = None) -> KVCache:
        return empty_cache(self.config.decoder_config(), batch, slots, dtype or jnp.float32)

    def positions(self, next_B: Array, valid_BT: Array, feature_BT: Array) -> tuple[Array, Array]:
        del feature_BT  # every embedding takes one position
        return sequential_positions(next_B, valid_BT)

    def forward(
        self,
        params: Params,
        tokens_BT: Array,
        feature_BT: Array,
        features: Features,
        positions_BTZ: Array,
        valid_BT: Array,
        cache: KVCache | None = None,
        start: Array | int = 0,
    ) -> tuple[Array, KVCache | None]:
        decoder, variables = self.decoder(), {"params": params["decoder"]}
        x_BTE = decoder.apply(variables, tokens_BT, method=Decoder.embed)
        x_BTE = mix_embeddings(x_BTE, features, feature_BT)
        return decoder.apply(variables, x_BTE, positions_BTZ, valid_BT, cache, start)

    def logits(self, params: Params, hidden_NE: Array) -> Array:
        return self.decoder().apply({"params": params["decoder"]}, hidden_NE, method=Decoder.logits)
