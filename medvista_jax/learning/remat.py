"""What the training forward keeps for its gradient."""

from __future__ import annotations

import dataclasses
from typing import Any


def with_remat(model: Any, policy: str) -> Any:
    """The model whose decoder blocks keep what ``policy`` says and compute the rest again: same parameters and values.

    Args:
      model: of any family; its ``config.decoder`` is a :class:`medvista_jax.models.blocks.DecoderConfig`.
      policy: ``"none"`` keeps everything; else a key of :data:`medvista_jax.models.blocks.REMAT`.
    """
    if policy == "none":
        return model
    decoder = dataclasses.replace(model.decoder().config, remat=policy)
    return dataclasses.replace(model, config=dataclasses.replace(model.config, decoder=decoder))
