"""Commands about hub-layout model folders.

    python -m medvista_jax.models inspect FOLDER --mesh data=1,fsdp=4,tensor=2 --dtype bfloat16
    python -m medvista_jax.models logits FOLDER --inputs in.npz --out out.npz

Exits with 2 and a message on standard error when the input is bad.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from medvista_jax.models import logits
from medvista_jax.models.hub import LEAF_DTYPES, load
from medvista_jax.models.inputs import BadInputs
from medvista_jax.models.tensor_files import BadCheckpoint
from medvista_jax.models.tree_report import report
from medvista_jax.runtime.mesh import MeshError, make_mesh, parse_mesh


def add_inspect(commands: argparse._SubParsersAction) -> None:
    """``inspect``: what is in a folder and what would go where. Reads headers only."""
    parser = commands.add_parser("inspect", help="tree, shapes, bytes, and what would go where on a mesh")
    parser.add_argument("folder", help="hub-layout folder: config.json and safetensors files")
    parser.add_argument("--mesh", default="", help="axis sizes such as data=1,fsdp=4,tensor=2; no devices are needed")
    parser.add_argument("--dtype", choices=LEAF_DTYPES, help="what they would be loaded as; default: as on disk")
    parser.add_argument("--depth", type=_positive, help="levels of the tree to show; default: all")
    parser.set_defaults(run=run_inspect)


def run_inspect(arguments: argparse.Namespace) -> int:
    """Prints the report."""
    jax.config.update("jax_platforms", "cpu")  # leaves accelerators to whoever is using them
    dtype = jnp.dtype(arguments.dtype) if arguments.dtype else None
    sizes = parse_mesh(arguments.mesh) if arguments.mesh else None
    print(report(arguments.folder, sizes, dtype, arguments.depth))
    return 0


def add_logits(commands: argparse._SubParsersAction) -> None:
    """``logits``: the model's logits of inputs as transformers takes them."""
    parser = commands.add_parser("logits", help="logits of input_ids, attention_mask, pixel_values, image_grid_thw")
    parser.add_argument("folder", help="hub-layout folder: config.json and safetensors files")
    parser.add_argument("--inputs", type=Path, required=True, help=f".npz with {', '.join(logits.WANTED)}")
    parser.add_argument("--out", type=Path, required=True, help=".npz to write: float32 logits [B, T, V]")
    parser.add_argument("--dtype", choices=LEAF_DTYPES, default="float32", help="of parameters and activations")
    parser.add_argument("--mesh", default="", help="axis sizes such as fsdp=4,tensor=2; default: one device")
    parser.set_defaults(run=run_logits)


def run_logits(arguments: argparse.Namespace) -> int:
    """Reads, computes, writes."""
    inputs, others = logits.read_inputs(arguments.inputs)
    if others:
        print(f"{arguments.inputs}: not used: {', '.join(others)}", file=sys.stderr)
    logits.check_writable(arguments.out)
    mesh = make_mesh(parse_mesh(arguments.mesh)) if arguments.mesh else None
    model, params = load(arguments.folder, dtype=jnp.dtype(arguments.dtype), mesh=mesh)
    logits_BTV = logits.run(model, params, inputs)
    logits.write(arguments.out, logits_BTV)
    print(f"{arguments.out}: logits {list(logits_BTV.shape)} of {type(model).__name__} in {arguments.dtype}")
    return 0


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m medvista_jax.models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_inspect(commands)
    add_logits(commands)
    chosen = parser.parse_args(arguments)
    try:
        code = chosen.run(chosen)
        sys.stdout.flush()
    except (BadCheckpoint, BadInputs, MeshError) as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        # `… | head` has read enough. What is still buffered goes nowhere, or Python complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
