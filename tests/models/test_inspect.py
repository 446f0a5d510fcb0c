"""``python -m medvista_jax.models inspect``."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from medvista_jax.models.__main__ import main
from medvista_jax.models.families import FAMILIES, read_config
from medvista_jax.models.shard_writer import ShardWriter
from medvista_jax.models.tensor_files import SINGLE, Tensor, TensorFiles
from medvista_jax.models.tree_report import amount, report
from medvista_jax.runtime.mesh import abstract_mesh
from medvista_jax.runtime.sharding import tree_placements
from tests.checkpoints import TINY, make_folder, tensors_of, write_config


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "qwen", "qwen3_vl")


def large(folder):
    """A checkpoint with an embedding of 2 MiB whose rows no mesh divides; the weights are holes."""
    text = TINY["qwen3_vl"]["text_config"] | {"vocab_size": 16_385, "num_hidden_layers": 12}
    write_config(folder, TINY["qwen3_vl"] | {"text_config": text})
    tensors = [Tensor(name, value.dtype, value.shape) for name, value in tensors_of(folder).items()]
    with ShardWriter(folder / SINGLE, tensors) as shard:
        for tensor in tensors:
            shard.append(np.broadcast_to(np.float32(0), tensor.shape).copy())
    return folder


def test_header_and_tree(folder, capsys):
    assert main(["inspect", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    tensors = load_file(folder / SINGLE)
    number = sum(value.size for value in tensors.values())
    assert lines[0] == f"Qwen3VLForConditionalGeneration in {folder}"
    assert lines[1] == f"1 file with {amount(4 * number)} of tensors on disk"
    assert lines[2] == f"{number:,} parameters in {len(tensors)} leaves, {amount(4 * number)} as stored"
    assert lines[4].split() == ["leaf", "shape", "dtype", "bytes"]
    rows = [line.split("  ") for line in lines]
    rows = [[cell.strip() for cell in row if cell] for row in rows]
    assert ["embedding", "[98, 32]", "float32", "12.25 KiB"] in rows
    layer = sum(value.nbytes for name, value in tensors.items() if ".layers.1." in name)
    assert ["layer_0 … layer_1 (2 alike, each)/", amount(layer)] in rows
    assert sum("    q/kernel " in line for line in lines) == 1, "layers that are alike are shown once"


def test_dtype_and_depth(folder, capsys):
    assert main(["inspect", str(folder), "--dtype", "bfloat16", "--depth", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    number = sum(value.size for value in load_file(folder / SINGLE).values())
    assert lines[2].endswith(f"{amount(2 * number)} as bfloat16")
    assert [line.split()[0] for line in lines[5:]] == ["connector/", "decoder/", "vision/"]


def test_what_goes_where(tmp_path):
    folder = large(tmp_path / "qwen")
    lines = report(folder, {"data": 2, "fsdp": 4, "tensor": 2}).splitlines()
    family = FAMILIES["qwen3_vl"]
    model = family.model_class()(read_config(family, folder))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    mesh = abstract_mesh({"data": 2, "fsdp": 4, "tensor": 2})
    each = sum(leaf.nbytes_per_device for leaf in jax.tree.leaves(tree_placements(family.params().RULES, shapes, mesh)))
    assert lines[3] == f"mesh data=2,fsdp=4,tensor=2: {amount(each)} on each of 16 devices"
    (embedding,) = [line for line in lines if line.lstrip().startswith("embedding ")]
    assert embedding.split() == [
        "embedding",
        "[16385,",
        "32]",
        "float32",
        "2.00",
        "MiB",
        "·",
        "×",
        "fsdp+tensor",
        "256.02",
        "KiB",
    ]
    assert any("layer_0 … layer_11 (12 alike, each)" in line for line in lines)
    # The vocabulary is odd: the tables are cut by width.
    assert lines[-1] == "Every leaf of 1.00 MiB or more is split as its rule says."


def test_all_is_well(folder):
    assert report(folder, {"fsdp": 2}).endswith("Every leaf of 1.00 MiB or more is split as its rule says.")


def test_only_headers_are_read(folder, capsys, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(TensorFiles, "read", refuse)
    assert main(["inspect", str(folder), "--mesh", "fsdp=1024,tensor=8"]) == 0
    assert "on each of 8192 devices" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["/nowhere/at/all"], "there is no folder /nowhere/at/all"),
        (["FOLDER", "--mesh", "model=2"], "axis 'model' is unknown"),
        (["FOLDER", "--mesh", "fsdp=-1"], "needs devices to count"),
    ],
)
def test_bad_input(folder, capsys, arguments, says):
    assert main(["inspect", *(str(folder) if word == "FOLDER" else word for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_a_truncated_shard(folder, capsys):
    path = folder / SINGLE
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["inspect", str(folder)]) == 2
    assert f"{path} is cut off" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--dtype", "int8"], ["--depth", "0"], ["--depth", "x"]])
def test_options_that_make_no_sense(folder, capsys, wrong):
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(folder), *wrong])
    assert stop.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_as_a_command(folder):
    command = [sys.executable, "-m", "medvista_jax.models", "inspect", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline().startswith("Qwen3VLForConditionalGeneration")
        run.stdout.close()
        assert run.stderr.read() == ""
        assert run.wait() == 0


def test_amounts():
    assert [amount(n) for n in (37, 1536, 3 * 2**19, 5 * 2**30)] == ["37 B", "1.50 KiB", "1.50 MiB", "5.00 GiB"]
