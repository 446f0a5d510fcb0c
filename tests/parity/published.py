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


def qwen2_5_vl(width, layers, heads, kv_heads, feed_forward, vocabulary, tied) -> dict:
    """The flat layout: what belongs to the text lies at the top."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": feed_forward,
        "max_position_embeddings": 128000,
        "max_window_layers": layers,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "vocab_size": vocabulary,
        "vision_config": {
            "depth": 32,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "hidden_act": "silu",
            "hidden_size": 1280,
            "in_chans": 3,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": width,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
    }


CONFIGS = {
    "Qwen2.5-VL-3B": qwen2_5_vl(2048, 36, 16, 2, 11008, 151936, True),
    "Qwen2.5-VL-7B": qwen2_5_vl(3584, 28, 28, 4, 18944, 152064, False),
    "Qwen3-VL-2B": qwen3_vl(2048, 28, 16, 6144, True),
    "Qwen3-VL-4B": qwen3_vl(2560, 36, 32, 9728, True),
    "Qwen3-VL-8B": qwen3_vl(4096, 36, 32, 12288, False, (1152, 27, 4304, [8, 16, 24])),
}
