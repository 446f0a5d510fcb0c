"""Adapters on disk against literals of PEFT's layout. tests/parity/test_lora.py asks transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from medvista_jax.core.types import Params
from medvista_jax.models.lora import LoRAConfig, init_lora, with_lora
from medvista_jax.models.lora_files import load_adapters, save_adapters
from medvista_jax.models.names import flatten, nest
from medvista_jax.models.tensor_files import BadCheckpoint
from tests import tiny
from tests.models.lora_cases import MODELS, QWEN, adapted, base_params, run

BODY = "base_model.model.model.language_model."


def write(folder: Path, tensors: dict[str, np.ndarray], **settings) -> Path:
    """A folder as PEFT 0.21 writes it, which spells out all its settings."""
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "alpha_pattern": {},
        "base_model_name_or_path": "somewhere",
        "bias": "none",
        "exclude_modules": None,
        "layers_to_transform": None,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "r": 4,
        "rank_pattern": {},
        "target_modules": ["q_proj", "down_proj"],
        "use_dora": False,
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


def drawn(body: str = BODY) -> dict[str, np.ndarray]:
    """Adapters of rank 4 of q_proj and down_proj in both layers of ``QWEN``."""
    rng = np.random.default_rng(1)
    shapes = {"self_attn.q_proj": (32, 32), "mlp.down_proj": (32, 48)}
    return {
        f"{body}layers.{layer}.{name}.lora_{half}.weight": 0.3 * rng.standard_normal(shape).astype(np.float32)
        for layer in range(2)
        for name, (out, wide) in shapes.items()
        for half, shape in (("A", (4, wide)), ("B", (out, 4)))
    }


def added(tensors: dict[str, np.ndarray], scale: float) -> Params:
    """The base with ``W + scale · B A``, as torch has W: the kernels transposed."""
    flat = flatten(base_params("qwen3_vl"))
    for layer in range(2):
        for name, path in (("self_attn.q_proj", "q"), ("mlp.down_proj", "down")):
            a, b = (tensors[f"{BODY}layers.{layer}.{name}.lora_{half}.weight"] for half in "AB")
            kernel = f"decoder/layer_{layer}/{path}/kernel"
            weight = np.asarray(flat[kernel], np.float64).T + scale * b.astype(np.float64) @ a.astype(np.float64)
            flat[kernel] = jnp.asarray(weight.T, jnp.float32)
    return nest(flat)


def gap(one, other) -> float:
    one, other = np.asarray(one), np.asarray(other)
    return float(np.abs(one - other).max() / np.abs(other).max())


def test_layout_is_pefts(tmp_path):
    model, params = adapted("qwen3_vl")
    save_adapters(model, params, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 2 * len(model.adapters.modules)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    tower = "base_model.model.model.visual."
    for name, a, b in (
        (BODY + "layers.1.self_attn.q_proj", (3, 32), (32, 3)),
        (BODY + "layers.1.self_attn.k_proj", (3, 32), (16, 3)),
        (BODY + "layers.0.mlp.down_proj", (3, 48), (32, 3)),
        (tower + "blocks.0.attn.qkv", (3, 16), (48, 3)),
        (tower + "blocks.1.mlp.linear_fc2", (3, 24), (16, 3)),
        (tower + "merger.linear_fc1", (3, 64), (64, 3)),
        (tower + "patch_embed.proj", (3, 3, 2, 4, 4), (16, 3, 1, 1, 1)),  # a convolution
    ):
        assert (tensors[f"{name}.lora_A.weight"].shape, tensors[f"{name}.lora_B.weight"].shape) == (a, b)
    layer = params["decoder"]["layer_1"]
    np.testing.assert_array_equal(
        tensors[f"{BODY}layers.1.self_attn.k_proj.lora_A.weight"].T, layer["k"]["kernel_lora_a"]
    )
    np.testing.assert_array_equal(tensors[f"{BODY}layers.1.mlp.up_proj.lora_B.weight"].T, layer["up"]["kernel_lora_b"])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["bias"]) == ("LORA", 3, 5.0, "none")
    assert config["base_model_name_or_path"] is None


@pytest.mark.parametrize(
    ("modules", "targets"),
    [
        (r"decoder/layer_\d+/(q|v)", ["q_proj", "v_proj"]),
        (
            r"decoder/layer_1/(q|v)",  # "q_proj" would be layer 0 too
            ["model.language_model.layers.1.self_attn.q_proj", "model.language_model.layers.1.self_attn.v_proj"],
        ),
        (r"vision/layer_\d+/attention/.*|vision/patch", ["proj", "qkv"]),
        (r"connector/merger/up", ["model.visual.merger.linear_fc1"]),
    ],
)
def test_target_modules_mean_what_was_adapted(tmp_path, modules, targets):
    model = with_lora(QWEN, LoRAConfig(2, 4.0, modules))
    save_adapters(model, init_lora(model, base_params("qwen3_vl"), jax.random.key(0)), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == targets


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name, tmp_path):
    model, params = adapted(name)
    save_adapters(model, params, tmp_path)
    again, loaded = load_adapters(tmp_path, MODELS[name], base_params(name))
    assert again == model  # the same compiled programs
    flat, expected = flatten(loaded), flatten(params)
    assert set(flat) == set(expected) and all(tiny.same_bits(flat[path], expected[path]) for path in flat)
    assert all(flat[path] is leaf for path, leaf in flatten(base_params(name)).items())


def test_a_family_without_a_hub_goes_by_our_paths(tmp_path):
    save_adapters(*adapted("medvista_tiny"), tmp_path)
    shapes = {name: tensor.shape for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items()}
    assert shapes["base_model.model.decoder.layer_0.k.lora_A.weight"] == (3, 32)
    assert shapes["base_model.model.decoder.layer_0.k.lora_B.weight"] == (16, 3)
    assert shapes["base_model.model.vision.block_0.attention.out.lora_B.weight"] == (16, 3)


@pytest.mark.parametrize("body", [BODY, "model.language_model."])
def test_adapters_of_peft(tmp_path, body):
    """With PEFT's prefix or without."""
    model, params = load_adapters(write(tmp_path, drawn(body)), QWEN, base_params("qwen3_vl"))
    assert (model.adapters.rank, model.adapters.alpha) == (4, 8.0)
    expected = run(QWEN, added(drawn(), 8 / 4))
    assert gap(run(model, params), expected) < 1e-5
    assert gap(run(QWEN, base_params("qwen3_vl")), expected) > 0.1


def test_rank_stabilised_scale_and_half_precision(tmp_path):
    """``use_rslora`` scales by alpha / √r (arXiv 2312.03732); tensors of float16 and bfloat16 become float32."""
    half = {name: tensor.astype(np.float16) for name, tensor in drawn().items()}
    write(tmp_path, half, use_rslora=True, target_modules=r".*\.(q_proj|down_proj)")
    model, params = load_adapters(tmp_path, QWEN, base_params("qwen3_vl"))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    assert gap(run(model, params), run(QWEN, added(half, 8 / 2))) < 1e-5
    brain = {name: tensor.astype(jnp.bfloat16) for name, tensor in drawn().items()}
    _, params = load_adapters(write(tmp_path / "brain", brain), QWEN, base_params("qwen3_vl"))
    b = brain[f"{BODY}layers.1.self_attn.q_proj.lora_B.weight"].astype(np.float32)
    np.testing.assert_array_equal(params["decoder"]["layer_1"]["q"]["kernel_lora_b"], b.T)


def test_one_error_lists_what_does_not_fit(tmp_path):
    tensors = drawn()
    del tensors[f"{BODY}layers.0.self_attn.q_proj.lora_B.weight"]
    for half in "AB":
        del tensors[f"{BODY}layers.1.mlp.down_proj.lora_{half}.weight"]
    tensors[f"{BODY}layers.7.self_attn.q_proj.lora_A.weight"] = np.zeros((4, 32), np.float32)
    tensors[f"{BODY}embed_tokens.lora_embedding_A"] = np.zeros((4, 64), np.float32)
    tensors["model.language_model.layers.0.mlp.down_proj.lora_A.weight"] = np.zeros((4, 48), np.float32)
    tensors[f"{BODY}layers.1.self_attn.q_proj.lora_A.weight"] = np.zeros((8, 32), np.float32)
    tensors[f"{BODY}layers.1.self_attn.q_proj.lora_B.weight"] = np.zeros((31, 4), np.float32)
    with pytest.raises(BadCheckpoint) as error:
        load_adapters(write(tmp_path, tensors), QWEN, base_params("qwen3_vl"))
    first, *lines = str(error.value).split("\n  ")
    assert first == f"{tmp_path / 'adapter_model.safetensors'} does not fit the model:"
    twice = [line for line in lines if line.startswith("twice: ")]
    assert len(twice) == 1 and twice[0].count("layers.0.mlp.down_proj.lora_A.weight") == 2
    assert sorted(set(lines) - set(twice)) == [
        f"misshapen: {BODY}layers.1.self_attn.q_proj.lora_A.weight is [8, 32]; r = 4 wants [4, 32]",
        f"misshapen: {BODY}layers.1.self_attn.q_proj.lora_B.weight is [31, 4]; r = 4 wants [32, 4]",
        f"missing: {BODY}layers.0.self_attn.q_proj.lora_B.weight",
        f"missing: {BODY}layers.1.mlp.down_proj.lora_A.weight",
        f"missing: {BODY}layers.1.mlp.down_proj.lora_B.weight",
        f"unknown: {BODY}embed_tokens.lora_embedding_A",
        f"unknown: {BODY}layers.7.self_attn.q_proj.lora_A.weight",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported, only 'LORA'"),
        ({"use_dora": True}, "sets use_dora, which is not supported"),
        ({"rank_pattern": {"q_proj": 8}}, "sets rank_pattern"),
        ({"bias": "all"}, "sets bias"),
        ({"r": 0}, "r = 0 and lora_alpha = 8 must be"),
        ({"lora_alpha": None}, "r = 4 and lora_alpha = None must be"),
        ({"r": 8}, "q_proj.lora_A.weight is [4, 32]; r = 8 wants [8, 32]"),
        ({"target_modules": ["q_proj", "v_proj"]}, f"missing: {BODY}layers.0.self_attn.v_proj"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, settings, message):
    with pytest.raises(BadCheckpoint, match=re.escape(message)):
        load_adapters(write(tmp_path, drawn(), **settings), QWEN, base_params("qwen3_vl"))


def test_narrowed_target_modules_are_left_to_the_tensors(tmp_path):
    """Layer 0 alone, by a setting that narrows ``target_modules`` down."""
    tensors = {name: tensor for name, tensor in drawn().items() if "layers.0." in name}
    folder = write(tmp_path, tensors, layers_to_transform=[0])
    model, _ = load_adapters(folder, QWEN, base_params("qwen3_vl"))
    assert sorted(model.adapters.modules) == ["decoder/layer_0/down", "decoder/layer_0/q"]


def test_folders_that_hold_no_adapters(tmp_path):
    def refused(message: str) -> None:
        with pytest.raises(BadCheckpoint, match=message):
            load_adapters(tmp_path, QWEN, base_params("qwen3_vl"))

    refused(r"has no adapter_config\.json, so it holds no adapters")
    write(tmp_path, drawn())
    file = tmp_path / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    refused(r"adapter_model\.safetensors is cut off")
    write(tmp_path, {}, target_modules=[])
    refused("it holds no adapters")
    file.unlink()
    refused(r"lacks adapter_model\.safetensors")
    (tmp_path / "adapter_model.bin").write_bytes(whole)
    refused(r"adapter_model\.bin is a pickle, which is never opened")


def test_a_model_with_adapters_takes_no_others(tmp_path):
    once, params = load_adapters(write(tmp_path, drawn()), QWEN, base_params("qwen3_vl"))
    with pytest.raises(ValueError, match="the model has adapters already; merge them first"):
        load_adapters(tmp_path, once, params)
