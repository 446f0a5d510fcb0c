"""How far the ports are from transformers, in numbers: the table of the README.

    python -m tests.parity.table

Small random models, all parameters perturbed. Text, images of several sizes, padded rows; float32 on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medvista_jax.rollout.generate import greedy
from tests.parity import families, protocol
from tests.parity.reference import Pair, gap, our_batch, our_logits, tensors, their_logits

QWEN_ROWS = {
    "text": ([11],),
    "images": ([3, (6, 4), 2, (2, 10), 1, (8, 8), 4],),
    "padded": ([5, (4, 6), 3, (8, 2), 4], [2, (2, 2), 7]),
}
TILE_ROWS = {
    "text": ([11],),
    "images": ([3, (20, 60), 2, (16, 16), 1, (37, 16), 4],),
    "padded": ([5, (20, 60), 3, (16, 16), 4], [2, (37, 16), 7]),
}
FAMILIES: dict[str, tuple[Callable[..., Pair], Callable, dict]] = {
    "Qwen3-VL": (families.qwen3_vl, families.qwen_inputs, QWEN_ROWS),
    "Qwen2.5-VL": (families.qwen2_5_vl, families.qwen_inputs, QWEN_ROWS),
    "InternVL3": (families.internvl, families.internvl_inputs, TILE_ROWS),
}
HEAD = ("family", "text", "images", "padded rows", "loss", "gradient", "32 greedy tokens", "bfloat16 error / theirs")


def row(name: str) -> tuple[str, ...]:
    """Gaps of one family, each a share of the reference's own size."""
    make, inputs_of, rows = FAMILIES[name]
    pair = make()
    inputs = {case: inputs_of(pair, parts) for case, parts in rows.items()}
    gaps = [gap(our_logits(pair, x), their_logits(pair, x), x["attention_mask"]) for x in inputs.values()]
    shares = {part: abs(a - b) / b for part, (a, b) in protocol.losses_and_norms(pair, inputs["padded"]).items()}
    (ours, _), (theirs, _) = protocol.bfloat16_errors(pair, inputs["padded"])
    left = inputs_of(pair, rows["padded"], left=True)
    tokens, _ = greedy(pair.model, pair.params, our_batch(pair, left), 32)
    options = {"do_sample": False, "min_new_tokens": 32, "max_new_tokens": 32, "pad_token_id": 0}
    expected = pair.theirs.generate(**tensors(pair, left), **options)[:, left["input_ids"].shape[1] :].numpy()
    same = int((np.asarray(tokens) == expected).sum())
    numbers = [f"{value:.1e}" for value in (*gaps, shares["loss"], max(shares.values()))]
    return name, *numbers, f"{same} of {expected.size}", f"{ours / theirs:.2f}"


def main() -> None:
    print("| " + " | ".join(HEAD) + " |")
    print("|" + " --- |" * len(HEAD))
    for name in FAMILIES:
        print("| " + " | ".join(row(name)) + " |", flush=True)


if __name__ == "__main__":
    main()
