"""Vision language models: one folder a family, one protocol (:mod:`medvista_jax.models.vlm`)."""

from medvista_jax.models.hub import load, save
from medvista_jax.models.hub_model import HubSource
from medvista_jax.models.tensor_files import BadCheckpoint

__all__ = ["BadCheckpoint", "HubSource", "load", "save"]
