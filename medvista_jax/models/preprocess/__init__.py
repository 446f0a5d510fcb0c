"""Images from files to what each family's model takes, agreeing with the hub's image processors."""

from medvista_jax.models.preprocess.internvl import InternVLImageConfig, internvl_image, internvl_inputs
from medvista_jax.models.preprocess.pixels import to_rgb, to_view
from medvista_jax.models.preprocess.plain import PlainImageConfig, plain_inputs
from medvista_jax.models.preprocess.qwen import QwenImageConfig, qwen_image, qwen_inputs

__all__ = [
    "InternVLImageConfig",
    "PlainImageConfig",
    "QwenImageConfig",
    "internvl_image",
    "internvl_inputs",
    "plain_inputs",
    "qwen_image",
    "qwen_inputs",
    "to_rgb",
    "to_view",
]
