"""Configurations as published on the hub, older layouts included, as far as they bear on shapes."""

from __future__ import annotations


def qwen3_vl(width, layers, heads, feed_forward, tied, vision=(1024, 24, 4096, [5, 11, 17])) -> dict:
    tower, depth, wide, deepstack = vision
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "tie_word_embeddings": tied,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "attention_bias": False,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": width,
            "intermediate_size": feed_forward,
            "max_position_embeddings": 262144,
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
            "rope_theta": 5000000,
            "tie_word_embeddings": tied,
            "vocab_size": 151936,
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "deepstack_visual_indexes": deepstack,
            "depth": depth,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": tower,
            "in_channels": 3,
            "intermediate_size": wide,
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": width,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


CONFIGS = {
    "Qwen3-VL-2B": qwen3_vl(2048, 28, 16, 6144, True),
    "Qwen3-VL-4B": qwen3_vl(2560, 36, 32, 9728, True),
    "Qwen3-VL-8B": qwen3_vl(4096, 36, 32, 12288, False, (1152, 27, 4304, [8, 16, 24])),
}
