"""The text side of a ``medvista-tiny`` folder: vocabulary, symbols, chat template, and where a turn ends.

``tokenizer.model`` is a SentencePiece model that :class:`medvista_jax.text.tokenizer.SentencePieceTokenizer` reads. The
template renders what :class:`medvista_jax.text.chat.CompactChat` renders: the tools by name in the system message.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from medvista_jax.text.tokenizer import SentencePieceTokenizer

TEMPLATE = r"""
{%- macro show(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- else -%}
    {%- for part in content -%}
      {{- '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text -}}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{{- '<|im_start|>system\ntools: ' -}}
{%- for tool in tools or [] -%}
  {{- (', ' if not loop.first else '') ~ (tool.function or tool).name -}}
{%- else -%}
  {{- 'none' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- for message in messages -%}
  {%- if message.role == 'system' -%}
    {{- raise_exception('the system message lists the tools and nothing else') -}}
  {%- elif message.role == 'tool' -%}
    {{- '<|im_start|>user\n<tool_response>' ~ show(message.content) ~ '</tool_response><|im_end|>\n' -}}
  {%- else -%}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ show(message.content) ~ '<|im_end|>\n' -}}
  {%- endif -%}
{%- endfor -%}
{{- '<|im_start|>assistant\n' if add_generation_prompt else '' -}}
""".strip()
"""An image's middle symbol is repeated by whoever feeds the model, once for every embedding."""

ENDS = ("</tool_call>", "</answer>")
"""A turn ends with either."""


def write_text_files(tokenizer: SentencePieceTokenizer, folder: Path, turn_tokens: int) -> None:
    """``tokenizer.model``, ``tokenizer_config.json``, ``chat_template.jinja`` and ``generation_config.json``.

    Args:
      turn_tokens: most ids of a turn.
    """
    shutil.copyfile(tokenizer.path, folder / "tokenizer.model")
    settings = {
        "tokenizer_class": "SentencePieceTokenizer",
        "vocab_size": tokenizer.vocab_size,
        "pad_token_id": tokenizer.pad_id,
        "special": {text: index for text, index in tokenizer.special.items() if text != "\n"},
    }
    generation = {
        "do_sample": False,
        "max_new_tokens": turn_tokens,
        "pad_token_id": tokenizer.pad_id,
        "eos_token_id": [tokenizer.special[text] for text in ENDS],
    }
    for name, content in (("tokenizer_config.json", settings), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
