"""InternVL3 in the ``-hf`` layout: 1B, 2B, 8B, 14B."""

from medvista_jax.models.internvl.modeling import InternVL, InternVLConfig

__all__ = ["InternVL", "InternVLConfig"]
