"""The corpus of the tiny model's tokenizer: what is said in atlas episodes.

    python -m medvista_jax.data.tokenizer_corpus --out corpus.txt
    python -m medvista_jax.text.train_tokenizer --corpus corpus.txt --out medvista_jax/text/medvista_tiny.model

Questions of the training split, scripted turns and observations. The same atlas gives the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from medvista_jax.core.tool_text import IMAGE_TEXT
from medvista_jax.data.atlas import Atlas
from medvista_jax.data.teachers import TeacherConfig, teach
from medvista_jax.text.chat import ERRORS, FINAL_TEXT, tool_line
from medvista_jax.tools.registry import DEFAULT_TOOLS


def build_corpus(items_per_family: int = 300) -> list[str]:
    """One document a line: prompt, turns and observations of scripted episodes."""
    atlas, rng, lines = Atlas("train"), np.random.default_rng(0), []
    specs = [tool.spec for tool in DEFAULT_TOOLS.values()]
    errors = list(ERRORS.values())
    for family in atlas.families:
        for index in range(items_per_family):
            item = atlas.item(family, index)
            tools = bool(rng.random() < 0.8)
            line = f"<|im_start|>system\n{tool_line(specs if tools else ())}<|im_end|>\n<|im_start|>user\n"
            line += f"<|vision_start|><|vision_end|>{item.question}<|im_end|>\n<|im_start|>assistant\n"
            turns = teach(item, rng, TeacherConfig(), tools)
            for turn in turns[:-1]:
                reply = IMAGE_TEXT.format(image=1) if rng.random() < 0.7 else errors[rng.integers(len(errors))]
                final = FINAL_TEXT if rng.random() < 0.5 else ""
                line += f"{turn}<|im_end|>\n<|im_start|>user\n<tool_response>{reply}{final}</tool_response>"
                line += "<|im_end|>\n<|im_start|>assistant\n"
            lines.append((line + turns[-1]).replace("\n", " "))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--items-per-family", type=int, default=300)
    arguments = parser.parse_args()
    lines = build_corpus(arguments.items_per_family)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{arguments.out}: {len(lines)} documents")


if __name__ == "__main__":
    main()
