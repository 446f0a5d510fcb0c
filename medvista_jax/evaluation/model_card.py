"""The model card of an exported run: the hub's YAML header, then what was trained on what, and how good it is.

Every number comes from the rows of the run's ``table.json``; nothing is typed by hand.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from medvista_jax.data.sources import Notice
from medvista_jax.evaluation.run_record import PolicyRecord, Provenance, RunRecord
from medvista_jax.evaluation.tables import CONDITIONS, Row, markdown_table, protocol_lines

CAUTION = "Research software. Not for clinical use: not for diagnosis, triage or any decision about a patient."


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
      policy, seed: which of the run's weights.
      parameters: how many numbers, adapters merged.
      dtype: of the weights, such as ``"float32"``.
      merged: what became of adapters, in a sentence; empty where there were none.
      usage: Python that opens the folder.
      files: sentences on files that a reader may miss or wonder at.
      made: when and with which code.
    """

    policy: str
    seed: int
    parameters: int
    dtype: str
    merged: str
    usage: str
    files: tuple[str, ...]
    made: Provenance


def card_rows(rows: Sequence[Row], policy: PolicyRecord, seed: int) -> list[Row]:
    """The rows of ``table.json`` in which these very weights act on their own."""
    return [row for row in rows if row["condition"] in policy.conditions and row["seed"] == seed]


def model_card(record: RunRecord, rows: Sequence[Row], exported: Exported) -> str:
    """``README.md`` as text.

    Args:
      rows: of the run's ``table.json``.

    Raises:
      ValueError: the table has no row of these weights.
    """
    policy = record.policies[exported.policy]
    own = card_rows(rows, policy, exported.seed)
    if not own:
        raise ValueError(
            f"the table has no row of policy {exported.policy}, seed {exported.seed}; it has the conditions "
            f"{', '.join(sorted({row['condition'] for row in rows}))} and seeds {sorted({row['seed'] for row in rows})}"
        )
    stages = [stage for stage in record.stages if stage.name in policy.stages]
    parts = [
        f"---\n{_header(record, own)}\n---",
        f"# {record.title}, {exported.policy}",
        f"**{CAUTION}**",
        record.summary,
        _what(record, exported),
        f"## Use\n\n```python\n{exported.usage.strip()}\n```",
        "## Training data\n\n" + _data(record.data),
        f"**Implanted targets.** {record.implanted}" if record.implanted else "",
        "## Training\n\n" + _stages(stages),
        "## Numbers\n\n" + _numbers(record, rows, exported),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in (*record.limits, CAUTION)),
        "## Provenance\n\n" + _provenance(record, exported),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(record: RunRecord, own: Sequence[Row]) -> str:
    """YAML of the hub: https://huggingface.co/docs/hub/model-cards."""
    from huggingface_hub import EvalResult, ModelCardData  # late: takes a second to import

    protocol = record.protocol
    results = [
        EvalResult(
            task_type="visual-question-answering",
            task_name="Visual question answering with image tools",
            dataset_type="medvista_jax",
            dataset_name=protocol.dataset,
            dataset_split=protocol.split,
            metric_type="accuracy",
            metric_name=metric_name(row),
            metric_value=row["accuracy"],
            metric_args={
                "scorer": protocol.scorer,
                **{key: row[key] for key in ("ci95", "n", "calls_per_question", "seed")},
            },
        )
        for row in own
    ]
    licence: dict[str, Any] = {"license": record.licence} if record.licence else {"license": "other"}
    if not record.licence:
        licence["license_name"] = "none-stated"
    data = ModelCardData(
        **licence,
        language="en",
        library_name="medvista_jax",
        pipeline_tag="image-text-to-text",
        tags=["medical", "vision-language-model", "tool-use", "jax", "research-only", "not-for-clinical-use"],
        base_model=list(record.base_models) or None,
        model_name=record.title,
        eval_results=results,
    )
    return data.to_yaml()


def metric_name(row: Row) -> str:
    """``SFT + GRPO, needs zoom, tools on, greedy``: one name for each cell of the table."""
    condition = CONDITIONS.get(row["condition"], row["condition"].replace("_", " "))
    return f"{condition}, needs {row['needs']}, tools {'on' if row['tools'] else 'off'}, {row['decoding']}"


def _what(record: RunRecord, exported: Exported) -> str:
    lines = [
        f"- Family `{record.family}`, {exported.parameters:,} parameters, {exported.dtype}.",
        f"- Policy `{exported.policy}` of seed {exported.seed}, from `{record.experiment}`.",
        f"- {exported.merged}" if exported.merged else "",
        f"- Started from {', '.join(record.base_models)}." if record.base_models else "- Trained from random weights.",
        *(f"- {line}" for line in exported.files),
    ]
    return "\n".join(line for line in lines if line)


def _data(notices: Sequence[Notice]) -> str:
    if not notices:
        return "None is recorded."
    lines = ["| source | content | package | terms |", "| --- | --- | --- | --- |"]
    lines += [f"| {one.source} | {one.content} | {one.package} | {one.licence} |" for one in notices]
    return (
        "\n".join(lines)
        + "\n\nSources of the training and of the held-out questions together. The images are read from "
        "those packages at run time; none is part of this folder."
    )


def _stages(stages: Sequence[Any]) -> str:
    lines = ["| stage | steps | what |", "| --- | ---: | --- |"]
    lines += [f"| `{stage.name}` | {stage.steps} | {stage.what} |" for stage in stages]
    blocks = [
        f"<details><summary>Settings of {stage.name}</summary>\n\n```json\n"
        f"{json.dumps(stage.settings, indent=1, ensure_ascii=False)}\n```\n\n</details>"
        for stage in stages
    ]
    return "\n\n".join(["\n".join(lines), *blocks])


def _numbers(record: RunRecord, rows: Sequence[Row], exported: Exported) -> str:
    lines = protocol_lines(rows, record.protocol)
    seeds = sorted({row["seed"] for row in rows})
    which = f"The weights here are those of seed {exported.seed}; the header has its rows alone."
    note = [which] if len(seeds) > 1 else []
    return markdown_table(rows) + "\n" + "\n\n".join([*lines, *note])


def _provenance(record: RunRecord, exported: Exported) -> str:
    trained, written = record.made, exported.made
    lines = [
        f"- Command: `{record.command}`",
        f"- Run: {trained.date}, {trained.machine}, commit `{trained.commit}`; {_versions(trained.versions)}.",
        f"- Export: {written.date}, commit `{written.commit}`; {_versions(written.versions)}.",
    ]
    return "\n".join(lines)


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
