"""The packaged model's family, small and random."""

from __future__ import annotations

from medvista_jax.models.blocks import DecoderConfig
from medvista_jax.models.medvista_smol import MedVistaSmol, MedVistaSmolConfig
from medvista_jax.models.medvista_smol.modeling import VisionConfig
from tests import tiny

# Views of 16 x 16 pixels cost four embeddings, as those of tests/tiny.py: its environment and questions fit.
MODEL = MedVistaSmol(
    MedVistaSmolConfig(
        decoder=DecoderConfig(
            tiny.VOCAB, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, feed_forward=48, embedding_scale=1.0
        ),
        image_token=3,
        vision=VisionConfig(width=16, layers=2, heads=2, feed_forward=32, patch=4, grid=5),
        connector_width=24,
    ),
    (16, 16),
)
