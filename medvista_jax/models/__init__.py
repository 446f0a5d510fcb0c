"""Vision language models: one folder a family, one protocol (:mod:`medvista_jax.models.vlm`)."""
