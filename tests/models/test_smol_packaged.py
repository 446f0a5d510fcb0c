"""The packaged weights: what was recovered is what llama.cpp and the ONNX graph compute with."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.utils import Extractor
from safetensors import safe_open
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.models.medvista_smol import packaged
from medvista_jax.models.medvista_smol.template import CHAT_TEMPLATE, IMAGE, SYSTEM
from medvista_jax.runtime.wheels import file_digest, wheel_file
from medvista_jax.text.chat import tool_block
from medvista_jax.text.tokenizer import HubTokenizer
from medvista_jax.tools.registry import DEFAULT_TOOLS

# transformers' reader of GGUF files knows no digits (see the test of digits), so none of these has a number behind two
# spaces or a number outside ASCII.
STRINGS = (
    "What is the capital of France?",
    "In 2024, I paid $1234.56 for 3x4 cm!",
    "naïve café — “quotes” … 你好，世界 🧠🩻 Ελληνικά",
    "def f(x):\n\treturn {'a': [1, 2, 3]}  # comment\r\n\n\n    indented",
    "  leading, trailing  ",
    "it's they'll WE'VE don't",
    '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [100, 200, 600, 900]}}</tool_call>',
    "<|im_start|>user\nhello<|im_end|>\n<|endoftext|><empty_output>",
    "\x00\x7f\u200b\ufeff",
    "",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made anew: the one in the cache may be of older code."""
    place = tmp_path_factory.mktemp("packaged") / "model"
    packaged.write_folder(place)
    yield place
    shutil.rmtree(place)  # pytest would keep three times 630 MB


def test_the_folder_in_the_cache_is_what_the_code_makes(folder):
    """Where it is not, ``_FORMAT`` must be raised."""
    kept = packaged.packaged_folder()
    assert sorted(path.name for path in kept.iterdir()) == sorted(path.name for path in folder.iterdir())
    for path in folder.iterdir():
        assert file_digest(path) == file_digest(kept / path.name), path.name


@pytest.fixture(scope="module")
def gguf_folder():
    (name,) = packaged.SMOLLM2.files
    return wheel_file(packaged.SMOLLM2, name)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def original(gguf_folder):
    """transformers' own reading of the file's tokenizer."""
    return AutoTokenizer.from_pretrained(gguf_folder.parent, gguf_file=gguf_folder.name)


def stored(folder, prefix: str) -> dict[str, np.ndarray]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name[len(prefix) :]: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}


@pytest.mark.slow
def test_language_weights_are_what_transformers_reads_from_the_file(folder, gguf_folder):
    config = LlamaConfig(**load_gguf_checkpoint(str(gguf_folder))["config"])
    with torch.device("meta"):
        shell = LlamaForCausalLM(config)
    theirs = load_gguf_checkpoint(str(gguf_folder), return_tensors=True, model_to_load=shell)["tensors"]
    ours = stored(folder, "language_model.")
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert value.dtype == np.float32
        # Scales are stored in half precision and multiplied in single: the last bit may differ.
        np.testing.assert_allclose(value, theirs[name], rtol=1e-6, atol=1e-8, err_msg=name)
    text = LlamaConfig(**json.loads((folder / "config.json").read_text())["text_config"])
    for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"):
        assert getattr(text, field) == getattr(config, field)
    assert text.rope_parameters["rope_theta"] == 100_000 and text.rms_norm_eps == 1e-5
    assert text.vocab_size == 49_152 and text.intermediate_size == 1536 and text.max_position_embeddings == 8192


def test_vision_weights_compute_what_the_onnx_graph_computes(folder):
    (name,) = packaged.DINOV2.files
    graph = onnx.shape_inference.infer_shapes(onnx.load(wheel_file(packaged.DINOV2, name)))
    backbone = Extractor(graph).extract_model(["input_image"], ["/backbone/layernorm/Add_1_output_0"])
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    (theirs,) = ReferenceEvaluator(backbone).run(None, {"input_image": pixels})
    model = Dinov2Model(Dinov2Config(**json.loads((folder / "config.json").read_text())["vision_config"])).eval()
    names = {  # on disk -> in memory, transformers 5
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
    }
    state = {}
    for name, value in stored(folder, "vision_tower.").items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = torch.tensor(value)
    model.load_state_dict(state)  # strict: nothing missing, nothing left over
    with torch.no_grad():
        ours = model(torch.tensor(pixels)).last_hidden_state.numpy()
    # float32 through twelve layers in two libraries; values reach 8. Leaving out the position table gives 1 and more.
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_symbols_of_images_were_never_trained(folder):
    rows = stored(folder, "language_model.model.")["embed_tokens.weight"]
    fast = AutoTokenizer.from_pretrained(folder)
    ids = [fast.convert_tokens_to_ids(name) for name in packaged.SYMBOLS.values()]
    apart = np.abs(rows[:17] - rows[ids[0]]).max(axis=1)
    step = np.abs(rows[ids[0]]).max() / 127  # of the largest block of 32 values, in eight bits
    assert (apart < step).sum() == 11 and (apart[ids] < step).all() and np.sort(apart)[11] > 4 * step
    config = json.loads((folder / "config.json").read_text())
    assert [config[f"{name}_id"] for name in ("vision_start_token", "vision_end_token", "image_token")] == ids


def test_the_connector_is_random_but_always_the_same(folder):
    connector = stored(folder, "multi_modal_projector.")
    again = packaged.connector_weights(4 * 384, 576)
    assert {name: value.shape for name, value in connector.items()} == {
        "linear_1.weight": (576, 1536),
        "linear_1.bias": (576,),
        "linear_2.weight": (576, 576),
        "linear_2.bias": (576,),
    }
    assert all((again["multi_modal_projector." + name] == value).all() for name, value in connector.items())


@pytest.mark.parametrize("text", STRINGS)
def test_ids_are_those_of_transformers_reading(tokenizer, original, text):
    assert tokenizer(text).input_ids == original(text).input_ids


def test_digits_stand_alone(tokenizer):
    # llama.cpp's kind "smollm" cuts every number character out before anything else.
    assert tokenizer.tokenize("x  12 ½") == ["x", "ĠĠ", "1", "2", "Ġ", "Â½"]
    assert tokenizer("What is the capital of France?").input_ids == [1780, 314, 260, 3575, 282, 4649, 47]


def test_symbols_of_images_are_single_and_the_vocabulary_keeps_its_size(tokenizer, folder):
    assert len(tokenizer) == 49_152
    ours = HubTokenizer(PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")))
    assert ours.encode(IMAGE) == [7, 10, 8] and ours.vocab_size == 49_152
    assert {"<|im_start|>": 1, "<|im_end|>": 2, "<|endoftext|>": 0}.items() <= ours.special.items()
    for text in STRINGS:
        assert ours.decode(ours.encode(text)) == text.replace("<|endoftext|>", "")  # the pad symbol stands for nothing


def test_template_without_images_is_the_files_own(tokenizer, original):
    short = [{"role": "user", "content": "Hello {{ x }}"}]
    long = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": " c\n"},
    ]
    for messages in (short, long):
        for prompt in (True, False):
            ours = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            assert ours == original.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)


def test_template_renders_images_and_tools(tokenizer):
    specs: list[ToolSpec] = [tool.spec for tool in DEFAULT_TOOLS.values()]
    call = {"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4]}}
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which plane?"}]},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": [{"type": "image"}]},
    ]
    text = tokenizer.apply_chat_template(
        messages, tools=[spec.schema() for spec in specs], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        f"<|im_start|>system\n{SYSTEM}\n\n{tool_block(specs)}<|im_end|>\n"
        f"<|im_start|>user\n{IMAGE}Which plane?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4]}}\n'
        "</tool_call><|im_end|>\n"
        f"<|im_start|>user\n<tool_response>\n{IMAGE}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_transformers_opens_the_processor(folder):
    processor = AutoImageProcessor.from_pretrained(folder)
    image = np.random.default_rng(0).integers(0, 256, (100, 160, 3)).astype(np.uint8)
    assert processor(image, return_tensors="np")["pixel_values"].shape == (1, 3, 224, 224)
    assert (folder / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_all_or_nothing(monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packaged, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        packaged.write_folder(tmp_path / "model")
    assert not list(tmp_path.iterdir())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty|there already"):
        packaged.write_folder(tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine.txt"]
