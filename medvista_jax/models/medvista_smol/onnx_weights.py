"""DINOv2 ViT-S/14 out of an ONNX file: the backbone of a saliency model, with the hub's names.

Whether that model's authors tuned the backbone is not said; what is recovered is what the file holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

_PREFIX = "backbone."


def dinov2_config(weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """``config.json`` of the vision tower, as transformers' Dinov2Config takes it, from the shapes of its weights.

    Raises:
      ValueError: the position table is not square.
    """
    width, channels, patch, _ = weights["embeddings.patch_embeddings.projection.weight"].shape
    cells = weights["embeddings.position_embeddings"].shape[1] - 1
    side = round(cells**0.5)
    if side * side != cells:
        raise ValueError(f"the position table has {cells} patches, which is no square")
    return {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")),
        "num_attention_heads": width // 64,
        "mlp_ratio": weights["encoder.layer.0.mlp.fc1.weight"].shape[0] // width,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": side * patch,
        "patch_size": patch,
        "num_channels": channels,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
        "use_mask_token": False,  # only pretraining masks; the exporter left it out
    }


def dinov2_weights(path: Path) -> dict[str, np.ndarray]:
    """float32 tensors with the names of Dinov2Model on disk; linear layers ``[out, in]``.

    Most initialisers keep their names behind ``backbone.``. The exporter folded the others: a matrix is known by the
    node that multiplies with it and lies transposed, the position table is cut in two (class token, patches).

    Raises:
      ValueError: a folded tensor that is neither.
    """
    graph = onnx.load(path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    value = lambda name: np.array(numpy_helper.to_array(tensors[name]), np.float32)  # noqa: E731
    weights = {name[len(_PREFIX) :]: value(name) for name in tensors if name.startswith(_PREFIX)}
    position: dict[str, np.ndarray] = {}
    for node in graph.node:
        if not node.name.startswith("/backbone/"):
            continue
        for name in node.input:
            if name not in tensors or name.startswith(_PREFIX):
                continue
            place = node.name.removeprefix("/backbone/")
            if node.op_type == "MatMul":
                weights[place.removesuffix("/MatMul").replace("/", ".") + ".weight"] = value(name).T.copy()
            elif place.startswith("embeddings/") and node.op_type in ("Concat", "Reshape"):
                position[node.op_type] = value(name)
            else:
                raise ValueError(f"{path}: initialiser {name!r} of node {node.name!r} was not expected")
    if set(position) != {"Concat", "Reshape"}:
        raise ValueError(f"{path}: the position table was not found")
    weights["embeddings.position_embeddings"] = np.concatenate([position["Concat"], position["Reshape"]], axis=1)
    return weights
