"""The packaged weights in our port against the same weights in transformers' classes, and a question to the model."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer, Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

from medvista_jax import models
from medvista_jax.models.inputs import hub_batch, hub_logits
from medvista_jax.models.medvista_smol.packaged import packaged_folder
from medvista_jax.rollout.generate import greedy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded():
    return models.load(packaged_folder())


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(packaged_folder())


@pytest.fixture(scope="module")
def transformers_models(tmp_path_factory):
    """Llama and DINOv2 as transformers opens our tensors, each from a folder of its own, all names accounted for."""
    folder = packaged_folder()
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    parts = []
    for prefix, part, settings, kind in (
        ("language_model.", "text_config", LlamaConfig, LlamaForCausalLM),
        ("vision_tower.", "vision_config", Dinov2Config, Dinov2Model),
    ):
        place = tmp_path_factory.mktemp(part)
        settings(**config[part]).save_pretrained(place)
        tensors = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        model, report = kind.from_pretrained(place, output_loading_info=True)
        assert not any(report.values()), report
        parts.append(model.eval())
    return parts


TEXTS = (
    "The hippocampus lies in the medial temporal lobe.",
    "<|im_start|>user\nCount from 1 to 20.<|im_end|>\n<|im_start|>assistant\n1 2 3 4 5 6 7 8 9 10 11 12",
    "def mean(values):\n    return sum(values) / len(values)\n",
)


def test_language_model(loaded, transformers_models, tokenizer):
    model, params = loaded
    tokenizer.padding_side = "left"
    inputs = tokenizer(list(TEXTS), padding=True, return_tensors="np")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    ours = np.asarray(hub_logits(model, params, hub_batch(model, params, ids, mask)))
    places = torch.tensor((mask.cumsum(1) - 1).clip(0))
    with torch.no_grad():
        theirs = transformers_models[0](torch.tensor(ids), torch.tensor(mask), places).logits.numpy()
    # Logits reach 38; measured 2e-4. Any wrong constant (theta, epsilon, order of heads) gives 1 and more.
    np.testing.assert_allclose(ours[mask > 0], theirs[mask > 0], atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (168, 252)])
def test_vision_tower(loaded, transformers_models, height, width):
    model, params = loaded
    pixels = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    with torch.no_grad():
        theirs = transformers_models[1](torch.tensor(pixels)).last_hidden_state[:, 1:].numpy()
    ours = jax.jit(model.encode_patches)(params, pixels.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(np.asarray(ours).reshape(theirs.shape), theirs, atol=1e-4)


def test_it_answers_paris(loaded, tokenizer):
    model, params = loaded
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    batch = hub_batch(model, params, np.array([tokenizer(text).input_ids]))
    tokens, _ = greedy(model, params, batch, 8)
    assert tokenizer.decode(np.asarray(tokens)[0]) == "The capital of France is Paris.<|im_end|>"
