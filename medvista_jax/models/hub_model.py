"""What the ports of hub families share: everything behind the image features."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array, Params
from medvista_jax.models.adaptable import Adaptable
from medvista_jax.models.blocks import Decoder, DecoderConfig, empty_cache
from medvista_jax.models.vlm import Features, KVCache, mix_embeddings, sequential_positions


@dataclasses.dataclass(frozen=True)
class HubSource:
    """Where a model came from, for writing it back.

    Attributes:
      config_json: text of ``config.json``.
      folder: the hub-layout folder that was read; tokenizer and processor files are copied from it.
    """

    config_json: str
    folder: str


def require_blocks(image_size: tuple[int, int], patch: int, merge: int) -> None:
    """Raises ValueError when blocks of ``merge × merge`` patches do not divide a view."""
    unit = patch * merge
    if any(side < unit or side % unit for side in image_size):
        raise ValueError(
            f"image_size {tuple(image_size)} must be multiples of patch x merge = {unit} pixels; the nearest is "
            f"{tuple(max(unit, round(side / unit) * unit) for side in image_size)}"
        )


@dataclasses.dataclass(frozen=True)
class HubModel(Adaptable):
    """Base of the ports; see :class:`medvista_jax.models.vlm.VisionLanguageModel`.

    Attributes:
      config: the family's configuration; its ``decoder`` is a :class:`DecoderConfig`.
      image_size: h, w of the views that :meth:`encode_images` takes: one bucket, one compiled program. ``None`` takes
        the family's own choice, ``default_image_size()``.
      dtype: name of the dtype of activations and of the cache.
      source: where it came from; not part of its identity.
    """

    config: Any
    image_size: tuple[int, int] | None = None
    dtype: str = "float32"
    source: HubSource | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.image_size is None:
            object.__setattr__(self, "image_size", self.default_image_size())

    @property
    def vocab_size(self) -> int:
        return self.config.decoder.vocab_size

    @property
    def position_axes(self) -> int:
        return self.config.decoder.position_axes

    def decoder(self) -> nn.Module:
        """The decoder as a module over ``params["decoder"]``."""
        return self.module(Decoder(self.config.decoder), "decoder")

    def init_decoder(self, key: Array) -> Params:
        """Fresh decoder parameters."""
        c: DecoderConfig = self.config.decoder
        x_BTE = jnp.zeros((1, 1, c.width), jnp.float32)
        positions_BTZ = jnp.zeros((1, 1, c.position_axes), jnp.int32)
        return self.decoder().init(key, x_BTE, positions_BTZ, jnp.ones((1, 1), bool), None, 0)["params"]

    def init_cache(self, batch: int, slots: int, dtype: Any = None) -> KVCache:
        return empty_cache(self.config.decoder, batch, slots, dtype or self.dtype)

    def positions(self, next_B: Array, valid_BT: Array, feature_BT: Array) -> tuple[Array, Array]:
        del feature_BT  # every embedding takes one position
        return sequential_positions(next_B, valid_BT)

    def deepstack(self, features: Features, feature_BT: Array) -> tuple[Array, ...]:
        """What is added behind the first layers of the decoder, ``[B, T, E]`` each."""
        del features, feature_BT
        return ()

    def embeddings(self, features: Features) -> Array:
        """The part of the features that stands in for token embeddings: ``[B, I, L, E]``."""
        return features

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
        x_BTE = decoder.apply(variables, tokens_BT, method="embed")
        x_BTE = mix_embeddings(x_BTE, self.embeddings(features), feature_BT)
        extra = self.deepstack(features, feature_BT)
        return decoder.apply(variables, x_BTE, positions_BTZ, valid_BT, cache, start, extra)

    def logits(self, params: Params, hidden_NE: Array) -> Array:
        return self.decoder().apply({"params": params["decoder"]}, hidden_NE, method="logits")

    def with_image_size(self, height: int, width: int) -> HubModel:
        """The same model for another bucket of views."""
        return dataclasses.replace(self, image_size=(height, width))

    def abstract_params(self, dtype: Any = jnp.float32) -> Params:
        """Shapes of all parameters, nothing allocated."""
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)
