"""``run.json``: what a training run was, beside its table, so that its weights can be handed on with their history.

An experiment writes one at its end with :func:`write_record`; :mod:`medvista_jax.evaluation.export` reads it.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvista_jax.data.sources import Notice
from medvista_jax.evaluation.tables import Protocol
from medvista_jax.models.lora import LoRAConfig
from medvista_jax.runtime import provenance

FILE = "run.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """One stage of training.

    Attributes:
      name: as in ``metrics.jsonl``.
      what: a sentence: what learnt from what.
      steps: how many.
      settings: every knob, as JSON.
    """

    name: str
    what: str
    steps: int
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class PolicyRecord:
    """Weights that a run left.

    Attributes:
      path: in the run's folder, ``{seed}`` standing for a seed. A file of
        :func:`medvista_jax.evaluation.setting.save_policy`, with all leaves or, over a base, only those that were
        trained; a folder of adapters in PEFT's layout; or a hub folder.
      base: hub folder that ``path`` goes over, in the run's folder or with its whole path; None where ``path`` is
        complete in itself.
      lora: the adapters whose leaves a file holds; a folder of adapters knows its own.
      stages: names of the stages that it went through.
      conditions: lines of the table in which it acts on its own.
    """

    path: str
    base: str | None = None
    lora: LoRAConfig | None = None
    stages: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Of :mod:`medvista_jax.runtime.provenance`: when, where and with which code the run was made."""

    date: str
    commit: str
    versions: Mapping[str, str]
    machine: str

    @classmethod
    def now(cls) -> Provenance:
        """Of this process."""
        return cls(provenance.today(), provenance.commit(), provenance.versions(), provenance.machine())


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run.

    Attributes:
      experiment: name of the script.
      title: what a model of this run is called, such as ``"medvista-tiny"``.
      summary: a paragraph: what the model is and does.
      command: that starts the run, without folders of one machine.
      family: ``"medvista_tiny"`` or a key of :data:`medvista_jax.models.families.FAMILIES`.
      settings: every knob of the experiment, as JSON.
      stages: in the order in which they ran.
      policies: name → weights; the last is what the run is about.
      protocol: of the table.
      data: images that were trained on, with their licences.
      implanted: which targets are not the images' own, in a sentence; empty where all are.
      limits: what the numbers do not show, a sentence each.
      seeds: of the table.
      base_models: hub names of what the run started from.
      licence: of those, as the hub abbreviates it; empty where there is none.
      made: when, where, with which code.
    """

    experiment: str
    title: str
    summary: str
    command: str
    family: str
    settings: Mapping[str, Any]
    stages: tuple[StageRecord, ...]
    policies: Mapping[str, PolicyRecord]
    protocol: Protocol
    data: tuple[Notice, ...]
    implanted: str
    limits: tuple[str, ...]
    seeds: tuple[int, ...]
    base_models: tuple[str, ...] = ()
    licence: str = ""
    made: Provenance = dataclasses.field(default_factory=Provenance.now)


def plain(value: Any) -> Any:
    """A configuration as JSON has it: dataclasses as dicts, tuples as lists, what JSON lacks as its text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def command_of(script: str, arguments: Sequence[str], folders: Sequence[str] = ("--out", "--model")) -> str:
    """The command that starts a run of a script in ``experiments``, as a shell takes it.

    Args:
      arguments: of the process.
      folders: options that name a folder of one machine; they are left out, and so is ``--resume``.
    """
    kept, skip = [], False
    for argument in arguments:
        name = argument.split("=")[0]
        if not skip and name not in (*folders, "--resume"):
            kept.append(argument)
        skip = not skip and argument in folders
    return shlex.join(["python", f"experiments/{script}", *kept])


def write_record(folder: Path, record: RunRecord) -> None:
    """Writes ``run.json`` into the run's folder."""
    text = json.dumps({"format": _FORMAT, **plain(record)}, indent=1, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read_record(folder: str | Path) -> RunRecord:
    """What :func:`write_record` wrote.

    Raises:
      FileNotFoundError: there is no ``run.json``, with what to do.
      ValueError: it is damaged, or of another version.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        why = "is there such a folder?" if not Path(folder).is_dir() else "has the run ended? --resume writes it"
        raise FileNotFoundError(f"no {path}; {why}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format", None) != _FORMAT:
            raise ValueError("it is of another version of this program; make it again with --resume")
        return RunRecord(
            **found
            | {
                "stages": tuple(StageRecord(**stage) for stage in found["stages"]),
                "policies": {name: _policy(one) for name, one in found["policies"].items()},
                "protocol": Protocol(**found["protocol"] | {"notes": tuple(found["protocol"]["notes"])}),
                "data": tuple(Notice(**notice) for notice in found["data"]),
                "limits": tuple(found["limits"]),
                "seeds": tuple(found["seeds"]),
                "base_models": tuple(found["base_models"]),
                "made": Provenance(**found["made"]),
            }
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from None


def _policy(found: Mapping[str, Any]) -> PolicyRecord:
    lora = found["lora"] and LoRAConfig(**found["lora"])
    return PolicyRecord(
        **dict(found) | {"lora": lora, "stages": tuple(found["stages"]), "conditions": tuple(found["conditions"])}
    )
