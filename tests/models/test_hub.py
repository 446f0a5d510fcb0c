"""Hub folders in and out, on one device; on several: tests/models/test_hub_devices.py."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from medvista_jax import models
from medvista_jax.models import BadCheckpoint, streaming
from medvista_jax.models.families import FAMILIES
from medvista_jax.models.hub_model import HubSource
from medvista_jax.models.names import Layout, flatten
from medvista_jax.models.tensor_files import INDEX, SINGLE
from tests.checkpoints import TINY, make_folder, write_config

every_family = pytest.mark.parametrize("kind", TINY)


@pytest.fixture
def qwen(tmp_path):
    return make_folder(tmp_path / "qwen", "qwen3_vl")


def change_tensors(folder, change):
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE)


def assert_same(ours, theirs):
    assert flatten(ours).keys() == flatten(theirs).keys()
    for path, leaf in flatten(ours).items():
        other = flatten(theirs)[path]
        assert leaf.dtype == other.dtype, path
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(other), err_msg=path)


def test_every_layout_by_hand(qwen):
    """Named tensors against what torch's layouts mean, without the table of names."""
    tensors = load_file(qwen / SINGLE)
    model, params = models.load(qwen)
    text, tower = "model.language_model.", "model.visual."
    decoder, vision = params["decoder"], params["vision"]
    np.testing.assert_array_equal(decoder["embedding"], tensors[text + "embed_tokens.weight"])
    np.testing.assert_array_equal(decoder["head"], tensors["lm_head.weight"])
    np.testing.assert_array_equal(
        decoder["layer_1"]["k"]["kernel"], tensors[text + "layers.1.self_attn.k_proj.weight"].T
    )
    window = tensors[tower + "patch_embed.proj.weight"]  # [out, channels, frames, rows, columns]
    kernel = np.asarray(vision["patch"]["kernel"]).reshape(3, 2, 4, 4, 16)
    np.testing.assert_array_equal(kernel, np.moveaxis(window, 0, -1))
    assert model.config.decoder.tied is False
    assert model.dtype == "float32"


@every_family
def test_every_tensor_arrives(tmp_path, kind):
    folder = make_folder(tmp_path / kind, kind)
    tensors = load_file(folder / SINGLE)
    model, params = models.load(folder)
    assert isinstance(model, FAMILIES[kind].model_class())
    leaves = flatten(params)
    entries = FAMILIES[kind].entries(model.config)
    assert len(entries) == len(leaves) == len(tensors)
    for entry in entries:
        stored = tensors[entry.hub]
        wanted = stored if entry.layout is Layout.SAME else stored.reshape(len(stored), -1).T
        np.testing.assert_array_equal(np.asarray(leaves[entry.path]), wanted, err_msg=entry.path)
        assert isinstance(leaves[entry.path], jax.Array)
    fresh = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, fresh)


@every_family
def test_blocks_make_no_difference(tmp_path, kind, monkeypatch):
    folder = make_folder(tmp_path / kind, kind)
    _, whole = models.load(folder, dtype=jnp.bfloat16)
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 300)
    _, pieces = models.load(folder, dtype=jnp.bfloat16)
    assert_same(pieces, whole)


@every_family
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard_bytes", [10_000, 10**9])
def test_there_and_back(tmp_path, kind, tied, shard_bytes):
    folder = make_folder(tmp_path / kind, kind, tied)
    model, params = models.load(folder)
    assert model.config.decoder.tied is tied
    models.save(model, params, tmp_path / "deep" / "out", shard_bytes)
    out = tmp_path / "deep" / "out"
    saved = {name: value for file in out.glob("*.safetensors") for name, value in load_file(file).items()}
    original = load_file(folder / SINGLE)
    assert saved.keys() == original.keys()
    for name, value in original.items():
        np.testing.assert_array_equal(saved[name], value)
    assert (out / INDEX).exists() == (shard_bytes == 10_000)
    again, params_again = models.load(out)
    assert again == model
    assert_same(params_again, params)
    assert not list(out.parent.glob(".*")), "nothing temporary stays"


@pytest.mark.parametrize(
    ("stored", "asked", "got"),
    [
        (np.float32, None, "float32"),
        (ml_dtypes.bfloat16, None, "bfloat16"),
        (np.float16, None, "float16"),
        (np.float64, None, "float32"),
        (ml_dtypes.bfloat16, jnp.float32, "float32"),
        (np.float32, "bfloat16", "bfloat16"),
    ],
)
def test_dtypes(tmp_path, stored, asked, got):
    folder = make_folder(tmp_path / "x", "qwen3_vl", dtype=stored)
    model, params = models.load(folder, dtype=asked)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {got} == {model.dtype}
    q = load_file(folder / SINGLE)["model.language_model.layers.0.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(np.asarray(params["decoder"]["layer_0"]["q"]["kernel"]), q.T.astype(got))
    models.save(model, params, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    # transformers casts to what config.json says: it must say what was written.
    assert config["dtype"] == config["text_config"]["dtype"] == got


def test_dtypes_that_parameters_cannot_have(qwen):
    with pytest.raises(ValueError, match="float32, bfloat16, float16, not int8"):
        models.load(qwen, dtype=jnp.int8)


@every_family
def test_other_names_are_found_too(tmp_path, kind):
    """Every tensor that has another name carries it."""
    folder = make_folder(tmp_path / kind, kind)
    model, wanted = models.load(folder)
    assert kind != "qwen2_5_vl" or any(entry.aliases for entry in FAMILIES[kind].entries(model.config))
    others = {entry.hub: entry.aliases[-1] for entry in FAMILIES[kind].entries(model.config) if entry.aliases}
    tensors = load_file(folder / SINGLE)
    save_file({others.get(name, name): value for name, value in tensors.items()}, folder / SINGLE)
    assert_same(models.load(folder)[1], wanted)
    # The same tensor under both names is one too many, and nobody knows which one counts.
    for name, other in list(others.items())[:1]:
        save_file(tensors | {other: tensors[name]}, folder / SINGLE)
        with pytest.raises(BadCheckpoint, match=f"1 unknown:\n    {other}"):
            models.load(folder)


def test_a_head_on_disk_counts_more_than_the_configuration(qwen, tmp_path):
    config = json.loads((qwen / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = True  # where older files have it
    write_config(qwen, config | {"tie_word_embeddings": True})
    model, params = models.load(qwen)
    assert not model.config.decoder.tied
    assert "head" in params["decoder"]
    models.save(model, params, tmp_path / "out")
    # Left as it was, transformers would take the embeddings for the head.
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["tie_word_embeddings"] is saved["text_config"]["tie_word_embeddings"] is False


@every_family
def test_levels_are_those_of_the_folders_image_processor(tmp_path, kind):
    folder = make_folder(tmp_path / kind, kind)
    usual = models.load(folder)[0].config
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    model, _ = models.load(folder)
    assert (model.config.image_mean, model.config.image_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert dataclasses.replace(model.config, image_mean=usual.image_mean, image_std=usual.image_std) == usual
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(BadCheckpoint, match="preprocessor_config.json is no JSON"):
        models.load(folder)


def test_a_model_is_what_it_was_whatever_it_remembers(qwen):
    model, _ = models.load(qwen, image_size=(32, 64))
    assert model.image_size == (32, 64)
    assert model.source == HubSource((qwen / "config.json").read_text(), str(qwen))
    stranger = dataclasses.replace(model, source=None)
    assert stranger == model
    assert hash(stranger) == hash(model)
    assert "config_json" not in repr(model)


def test_progress_ends_at_the_whole(qwen, tmp_path):
    seen = []
    model, params = models.load(qwen, progress=lambda *pair: seen.append(pair))
    nbytes = sum(value.nbytes for value in load_file(qwen / SINGLE).values())
    assert seen[-1] == (nbytes, nbytes)
    assert len(seen) == len(jax.tree.leaves(params))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    seen.clear()
    models.save(model, params, tmp_path / "out", progress=lambda *pair: seen.append(pair))
    assert seen[-1] == (nbytes, nbytes)


# Checkpoints that do not fit their configuration.


def nothing_is_read(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("medvista_jax.models.tensor_files.TensorFiles.read", refuse)


def test_one_error_lists_everything(qwen, monkeypatch):
    def spoil(tensors):
        del tensors["model.visual.pos_embed.weight"]
        tensors["model.language_model.norm.weight"] = np.zeros(31, np.float32)
        tensors["model.language_model.layers.1.mlp.up_proj.weight"] = np.zeros((32, 48), np.float32)
        tensors["model.visual.extra"] = np.zeros((2, 3), np.float32)
        tensors["model.visual.patch_embed.proj.bias"] = np.zeros(16, np.int8)

    change_tensors(qwen, spoil)
    nothing_is_read(monkeypatch)
    with pytest.raises(BadCheckpoint) as error:
        models.load(qwen)
    text = str(error.value)
    for line in (
        f"{qwen}: the tensors do not fit config.json (Qwen3VLForConditionalGeneration); nothing was loaded.",
        "  1 missing:\n    model.visual.pos_embed.weight  [16, 16]",
        "  1 unknown:\n    model.visual.extra  [2, 3]",
        "  2 of another shape:\n"
        "    model.language_model.layers.1.mlp.up_proj.weight  expected [48, 32], found [32, 48]\n"
        "    model.language_model.norm.weight  expected [32], found [31]",
        "  1 quantised, or no floating-point numbers:\n    model.visual.patch_embed.proj.bias  int8",
    ):
        assert line in text


def test_a_long_list_is_cut(qwen):
    change_tensors(qwen, lambda tensors: tensors.update({f"extra.{i}": np.zeros(1, np.float32) for i in range(30)}))
    with pytest.raises(BadCheckpoint) as error:
        models.load(qwen)
    assert "30 unknown:" in str(error.value)
    assert "… and 18 more" in str(error.value)
    assert str(error.value).count("extra.") == 12


def test_a_head_that_the_configuration_wants_is_missing(tmp_path):
    folder = make_folder(tmp_path / "x", "qwen3_vl", tied=True)
    write_config(folder, TINY["qwen3_vl"] | {"tie_word_embeddings": False})
    with pytest.raises(BadCheckpoint, match=r"1 missing:\n    lm_head.weight  \[98, 32\]"):
        models.load(folder)


def test_harmless_leftovers_are_let_be(qwen, tmp_path):
    name = "model.language_model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(qwen, lambda tensors: tensors.update({name: np.zeros(4, np.float32)}))
    model, params = models.load(qwen)
    models.save(model, params, tmp_path / "out")
    assert name not in load_file(tmp_path / "out" / SINGLE)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
            "LlamaForCausalLM with model_type 'llama' is not",
        ),
        ({"architectures": ["Qwen3VLModel"]}, "Qwen3VLModel with model_type 'qwen3_vl' is not supported"),
        ({"model_type": "internvl_chat", "architectures": ["InternVLChatModel"]}, "ends in -hf"),
        ({"model_type": None, "architectures": None}, r"\(not named\) with model_type None"),
        ({"quantization_config": {"quant_method": "fp8"}}, "weights are quantised"),
        ({"text_config": 3}, "not understood by transformers: .*text_config"),
        ({"text_config": TINY["qwen3_vl"]["text_config"] | {"hidden_act": "swish9"}}, "'swish9' is not supported"),
    ],
)
def test_configurations_that_cannot_be_used(qwen, changes, says):
    write_config(qwen, TINY["qwen3_vl"] | changes)
    with pytest.raises(BadCheckpoint, match=says) as error:
        models.load(qwen)
    assert str(qwen / "config.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unsupported_architecture_is_told_what_is_supported(qwen):
    write_config(qwen, TINY["qwen3_vl"] | {"model_type": "llama"})
    with pytest.raises(BadCheckpoint) as error:
        models.load(qwen)
    for name, family in FAMILIES.items():
        assert name in str(error.value)
        assert family.architectures[0] in str(error.value)


# Saving.


def test_files_beside_the_weights_come_along(qwen, tmp_path):
    taken = {
        "tokenizer.json": "{}",
        "tokenizer_config.json": "[1]",
        "vocab.json": "v",
        "merges.txt": "m",
        "preprocessor_config.json": "{ }",
        "video_preprocessor_config.json": "q",
        "chat_template.jinja": "c",
        "generation_config.json": "g",
        "LICENSE": "l",
    }
    left = {"README.md": "r", "training_args.bin": "b", "pytorch_model.bin": "b", "modeling_x.py": "x"}
    for name, text in (taken | left).items():
        (qwen / name).write_text(text)
    (qwen / "additional_chat_templates").mkdir()
    (qwen / "additional_chat_templates" / "short.jinja").write_text("s")
    model, params = models.load(qwen)
    models.save(model, params, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*taken, "additional_chat_templates", "config.json", SINGLE}
    assert all((tmp_path / "out" / name).read_text() == text for name, text in taken.items())
    assert (tmp_path / "out" / "additional_chat_templates" / "short.jinja").read_text() == "s"


def test_a_source_that_is_gone(qwen, tmp_path):
    model, params = models.load(qwen)
    moved = dataclasses.replace(model, source=dataclasses.replace(model.source, folder=str(tmp_path / "gone")))
    with pytest.warns(UserWarning, match="gone: tokenizer and processor files are not copied"):
        models.save(moved, params, tmp_path / "out")
    assert_same(models.load(tmp_path / "out")[1], params)


def test_a_model_is_never_overwritten(qwen, tmp_path):
    model, params = models.load(qwen)
    before = (qwen / SINGLE).read_bytes()
    with pytest.raises(FileExistsError, match="holds a model already"):
        models.save(model, params, qwen)
    assert (qwen / SINGLE).read_bytes() == before
    with pytest.raises(FileExistsError, match="is a file"):
        models.save(model, params, qwen / "config.json")


def test_other_files_of_the_folder_stay(qwen, tmp_path):
    out = tmp_path / "out"
    (out / "additional_chat_templates").mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    (out / "tokenizer.json").write_text("old")
    (qwen / "tokenizer.json").write_text("new")
    (qwen / "additional_chat_templates").mkdir()
    (qwen / "additional_chat_templates" / "short.jinja").write_text("s")
    model, params = models.load(qwen)
    models.save(model, params, out, shard_bytes=10_000)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "tokenizer.json").read_text() == "new"
    assert_same(models.load(out)[1], params)


def test_a_stopped_save_leaves_nothing(qwen, tmp_path):
    model, params = models.load(qwen)

    def stop(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models.save(model, params, tmp_path / "out", shard_bytes=10_000, progress=stop)
    assert {path.name for path in tmp_path.iterdir()} == {"qwen"}


def test_a_full_disk_is_seen_before_anything_is_written(qwen, tmp_path, monkeypatch):
    model, params = models.load(qwen)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("medvista_jax.models.hub.shutil.disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="the model takes .* bytes, 1,000 are free"):
        models.save(model, params, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"qwen"}


def test_parameters_that_do_not_fit_are_listed(qwen, tmp_path):
    model, params = models.load(qwen)
    wrong = flatten(params) | {"decoder/final_norm/scale": jnp.zeros(31), "decoder/adapter": jnp.zeros((2, 3))}
    del wrong["decoder/head"]
    with pytest.raises(ValueError) as error:
        models.save(model, models.names.nest(wrong), tmp_path / "out")
    text = str(error.value)
    assert "nothing was written" in text
    assert "1 missing:\n    decoder/head  [98, 32]" in text
    assert "1 unknown:\n    decoder/adapter  [2, 3]" in text
    assert "1 of another shape:\n    decoder/final_norm/scale  expected [32], got [31]" in text
    assert not (tmp_path / "out").exists()


def test_a_source_must_describe_the_model(qwen, tmp_path):
    model, params = models.load(qwen)
    with pytest.raises(ValueError, match="was not loaded from a folder.*HubSource"):
        models.save(dataclasses.replace(model, source=None), params, tmp_path / "out")
    other = json.loads(model.source.config_json)
    other["text_config"]["intermediate_size"] = 64
    stranger = dataclasses.replace(model, source=HubSource(json.dumps(other), ""))
    with pytest.raises(ValueError, match="describes other parameters"):
        models.save(stranger, params, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"qwen"}


def test_arrays_of_numpy_can_be_saved(qwen, tmp_path):
    model, params = models.load(qwen)
    changed = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, params)
    models.save(model, changed, tmp_path / "out")
    assert_same(models.load(tmp_path / "out")[1], changed)
