"""The loop that a user would write with transformers and Pillow. A child of experiments/bench_rollout.py.

A batch of conversations; each turn `generate` samples a fixed number of tokens, the text is searched for a call, the
box is cropped out of the original picture by Pillow, the hub's image processor makes patches of it, and the
observation is appended. Two ways of going on:

- ``again``: each turn feeds the whole conversation with all its images.
- ``keep``: each turn hands the last one's key-value cache to `generate` with the new tokens and the new image only;
  the rotary positions, which `generate` would compute from all images, are computed here.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from wire import serve

from medvista_jax.text.tokenizer import SentencePieceTokenizer

CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
TOKENIZER = SentencePieceTokenizer()


class Policy:
    """The model and its image processor."""

    def __init__(self, folder: str, view: int) -> None:
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.view, vision = view, self.model.config.vision_config
        self.processor = Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            min_pixels=view * view,
            max_pixels=view * view,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        )

    def patches(self, views: list[Image.Image]) -> dict[str, torch.Tensor]:
        made = self.processor([view.convert("RGB") for view in views], return_tensors="pt")
        return {"pixel_values": made["pixel_values"], "image_grid_thw": made["image_grid_thw"]}


def box_of(text: str, otherwise: list[int]) -> list[int]:
    """The box of the last call in the text. A random policy writes none: then the given one."""
    for body in reversed(CALL.findall(text)):
        try:
            return json.loads(body)["arguments"]["bbox_2d"]
        except (ValueError, KeyError, TypeError):
            continue
    return otherwise


def crop(image: Image.Image, box: list[int], view: int) -> Image.Image:
    corners = tuple(number * image.size[k % 2] / 1000 for k, number in enumerate(box))
    return image.resize((view, view), Image.Resampling.BILINEAR, box=corners)


def play(policy: Policy, inputs: dict[str, np.ndarray], turns: int, tokens: int, keep: bool) -> int:
    """All turns of a batch of conversations; the number of sampled tokens."""
    model = policy.model
    images = [Image.fromarray(pixels) for pixels in inputs["images_BYX"]]
    seen = [[crop(image, [0, 0, 1000, 1000], policy.view)] for image in images]
    ids = torch.from_numpy(inputs["prompt_BP"])
    said = torch.from_numpy(inputs["observation_W"]).expand(len(images), -1)
    grids: list[torch.Tensor] = []
    cache, sampled = None, 0
    for turn in range(turns):
        shown = [views[-1] for views in seen] if keep else [view for views in seen for view in views]
        parts = policy.patches(shown)
        more: dict[str, Any] = {"mm_token_type_ids": (ids == model.config.image_token_id).long()}
        if keep:
            grids.append(parts["image_grid_thw"])
            all_grids = torch.stack(grids, dim=1).flatten(0, 1)
            more |= {"past_key_values": cache, "position_ids": positions(model, ids, all_grids, more)}
        result = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **parts,
            **more,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            pad_token_id=TOKENIZER.pad_id,
            return_dict_in_generate=keep,
        )
        whole = result.sequences if keep else result
        cache = result.past_key_values if keep else None
        sampled += (whole.shape[1] - ids.shape[1]) * len(images)
        # A random policy may write the symbol that stands for an embedding; a trained one does not.
        fresh = whole[:, ids.shape[1] :]
        fresh[fresh == model.config.image_token_id] = TOKENIZER.pad_id
        texts = [TOKENIZER.decode(row) for row in fresh.tolist()]
        if turn + 1 < turns:
            for row, text in enumerate(texts):
                box = box_of(text, inputs["boxes_BR4"][row, turn].tolist())
                seen[row].append(crop(images[row], box, policy.view))
            ids = torch.cat([whole, said], dim=1)
    return sampled


def positions(model: Any, ids: torch.Tensor, grids: torch.Tensor, more: dict[str, torch.Tensor]) -> torch.Tensor:
    """Text and M-RoPE positions of the whole conversation, int64 ``[4, B, T]``."""
    turned, model.model.rope_deltas = model.model.get_rope_index(
        ids, more["mm_token_type_ids"], image_grid_thw=grids, attention_mask=torch.ones_like(ids)
    )
    text = torch.arange(ids.shape[1]).expand(1, *ids.shape)
    return torch.cat([text, turned])


def main() -> None:
    state: dict[str, Any] = {}

    def make(folder: str, config: dict[str, Any]) -> None:
        torch.manual_seed(0)
        Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config)).save_pretrained(folder)

    def load(folder: str, view: int) -> int:
        state["policy"] = Policy(folder, view)
        return sum(p.numel() for p in state["policy"].model.parameters())

    def run(inputs: str, turns: int, tokens: int, keep: bool, threads: int) -> int:
        torch.set_num_threads(threads)
        with np.load(inputs) as arrays, torch.inference_mode():
            return play(state["policy"], dict(arrays), turns, tokens, keep)

    serve({"make": make, "load": load, "play": run})


if __name__ == "__main__":
    main()
