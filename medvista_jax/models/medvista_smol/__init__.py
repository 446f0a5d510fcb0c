"""The packaged 157M model: DINOv2 ViT-S/14, a two-layer connector and SmolLM2-135M, out of pip packages."""
