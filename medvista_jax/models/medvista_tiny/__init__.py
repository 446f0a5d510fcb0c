"""The packaged small model: every contract of the large ones at 0.6M parameters."""

from medvista_jax.models.medvista_tiny.modeling import MedVistaTiny, MedVistaTinyConfig

__all__ = ["MedVistaTiny", "MedVistaTinyConfig"]
