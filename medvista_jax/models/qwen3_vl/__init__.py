"""Qwen3-VL, dense: 2B, 4B, 8B."""

from medvista_jax.models.qwen3_vl.modeling import Qwen3VL, Qwen3VLConfig

__all__ = ["Qwen3VL", "Qwen3VLConfig"]
