"""Prepares, lists and shows medical benchmarks.

    python -m medvista_jax.data.benchmarks list
    python -m medvista_jax.data.benchmarks prepare NAME [--from FOLDER] [--to FOLDER] [--subset]
    python -m medvista_jax.data.benchmarks show NAME INDEX [--split SPLIT] [--to FOLDER] [--subset]

FOLDER of --from is a copy of the benchmark's repository on the Hugging Face hub, its archives packed as they come;
without it the files are downloaded. Exit code 0 when all went well, 2 when not.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import PIL.Image

from medvista_jax.data.benchmarks.item import BenchmarkItem
from medvista_jax.data.benchmarks.preparation import builder_of, default_folder, prepare
from medvista_jax.data.benchmarks.reading import Questions
from medvista_jax.data.benchmarks.specs import BENCHMARKS, Benchmark, Split, benchmark_of
from medvista_jax.data.files.image import BadFile


def _counts(split: Split) -> str:
    if split.about is not None:
        return f"about {split.about} rows"
    return ", ".join(f"{n} {key}" for key, n in split.counts.items()) or "not counted alone"


def _entry(benchmark: Benchmark) -> str:
    lines = [f"{benchmark.name}: {benchmark.title}", f"  source   https://huggingface.co/datasets/{benchmark.hub_id}"]
    lines += [f"  licence  {benchmark.licence}"]
    lines += [f"  {name:<11}{_counts(split)}" for name, split in benchmark.splits.items()]
    if benchmark.together:
        lines.append(f"  {'together':<11}" + ", ".join(f"{n} {key}" for key, n in benchmark.together.items()))
    return "\n".join(lines)


def describe(item: BenchmarkItem) -> str:
    """A question for people: images by their size, everything else as it is."""
    lines = [f"{item.benchmark}, {item.split}, {item.id} ({item.language}, {'closed' if item.closed else 'open'})"]
    for number, data in enumerate(item.images, 1):
        with PIL.Image.open(io.BytesIO(data)) as image:
            lines.append(f"  image {number}: {image.format}, {image.width} x {image.height}, {len(data)} bytes")
    lines.append(f"  question: {item.question}")
    lines += [f"    {letter}: {text}" for letter, text in (item.options or {}).items()]
    lines.append(f"  answer: {f'{item.answer_letter}: ' if item.answer_letter else ''}{item.answer}")
    lines += [f"  {key}: {value}" for key, value in item.extras.items()]
    return "\n".join(lines)


def _prepare(chosen: argparse.Namespace) -> str:
    benchmark = benchmark_of(chosen.name)
    print(f"{benchmark.title}: licence {benchmark.licence}, https://huggingface.co/datasets/{benchmark.hub_id}")
    folder = prepare(chosen.name, chosen.source, chosen.to, chosen.subset)
    splits = builder_of(benchmark, chosen.to, chosen.subset).info.splits
    return "\n".join([*(f"  {name}: {split.num_examples} questions" for name, split in splits.items()), f"in {folder}"])


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(prog="python -m medvista_jax.data.benchmarks", description=__doc__.split("\n")[0])
    what = out.add_subparsers(dest="what", required=True)
    what.add_parser("list", help="names, sources, licences and counts")
    for name, text in (("prepare", "read the hub's files once"), ("show", "one question")):
        command = what.add_parser(name, help=text)
        command.add_argument("name", help="of a benchmark, see list")
        command.add_argument("--to", type=Path, help=f"folder of prepared benchmarks (default {default_folder()})")
        command.add_argument("--subset", action="store_true", help="a part of the questions: counts are not checked")
        if name == "prepare":
            command.add_argument("--from", dest="source", type=Path, help="copy of the hub's repository")
        else:
            command.add_argument("index", type=int, help="from 0; -1 is the last")
            command.add_argument("--split", help="(default: the benchmark's last, which is what is reported)")
    return out


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see the module's docstring for the exit codes."""
    chosen = parser().parse_args(arguments)
    try:
        if chosen.what == "list":
            print("\n\n".join(map(_entry, BENCHMARKS.values())))
        elif chosen.what == "prepare":
            print(_prepare(chosen))
        else:
            split = chosen.split or list(benchmark_of(chosen.name).splits)[-1]
            print(describe(Questions(chosen.name, split, chosen.to, chosen.subset)[chosen.index]))
    except (BadFile, OSError, KeyError, IndexError) as error:
        text = error.args[0] if isinstance(error, KeyError) else error  # a KeyError's text is quoted
        print(f"medvista_jax.data.benchmarks: {text}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
