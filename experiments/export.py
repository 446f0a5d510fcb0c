"""Hand a trained model on: a run's weights as a hub folder, with a model card filled from the run.

    python experiments/export.py runs/quickstart runs/export/tiny
    python experiments/export.py runs/smol_grpo runs/export/smol             # adapters are merged
    python experiments/export.py RUN OUT --policy sft --seed 1 --overwrite
    python experiments/export.py RUN OUT --base /models/Qwen3-VL-2B-Instruct --base-model Qwen/Qwen3-VL-2B-Instruct

Writes OUT/config.json, model.safetensors (or shards with their index), tokenizer, processor and generation settings,
the chat template, and README.md: data with licences, stages and settings, protocol, the numbers of the run's table.json
with their intervals, limits, commit and versions. OUT appears complete or not at all. Nothing is uploaded.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import tyro

from medvista_jax.evaluation.export import export
from medvista_jax.models.shard_writer import SHARD_BYTES


@dataclasses.dataclass(frozen=True)
class Export:
    """What is exported where.

    Attributes:
      run: folder of a finished run: it holds run.json and table.json.
      out: folder to write.
      policy: which of the run's policies, such as sft; the last by default.
      seed: whose weights; the first by default.
      base: where the hub folder that the run started from is now, if it was moved.
      base_model: hub names of it for the card, such as Qwen/Qwen3-VL-2B-Instruct.
      licence: of the weights for the card, such as apache-2.0.
      overwrite: replace a model folder.
      shard_bytes: most bytes of a file of weights.
    """

    run: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    policy: str | None = None
    seed: int | None = None
    base: Path | None = None
    base_model: tuple[str, ...] = ()
    licence: str = ""
    overwrite: bool = False
    shard_bytes: int = SHARD_BYTES


def main() -> int:
    config = tyro.cli(Export, description=__doc__)
    try:
        written = export(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})
    except (ValueError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    print(f"{config.out}: policy {written.policy}, seed {written.seed}, {written.parameters:,} parameters")
    for line in (written.merged, *written.files):
        if line:
            print(f"  {line}")
    print(f"Read {config.out / 'README.md'} before you hand it on.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
