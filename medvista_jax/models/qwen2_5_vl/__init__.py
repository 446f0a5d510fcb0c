"""Qwen2.5-VL: 3B, 7B."""

from medvista_jax.models.qwen2_5_vl.modeling import Qwen25VL, Qwen25VLConfig

__all__ = ["Qwen25VL", "Qwen25VLConfig"]
