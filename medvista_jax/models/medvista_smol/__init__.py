"""The packaged 157M model: DINOv2 ViT-S/14, a two-layer connector and SmolLM2-135M, out of pip packages."""

from medvista_jax.models.medvista_smol.modeling import MedVistaSmol, MedVistaSmolConfig

__all__ = ["MedVistaSmol", "MedVistaSmolConfig"]
