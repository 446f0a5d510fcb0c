"""Hub-layout folders with a small vocabulary of Qwen's kind, and chat templates of several kinds."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.text.corpus import build_corpus
from tests.text.specs import TWO

# How Qwen2.5's and Qwen3's tokenizers cut text into words (a fact of their tokenizer.json).
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
PLAIN = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
).split()
PLAIN_OF_QWEN3 = ["<tool_response>", "</tool_response>", "<think>", "</think>"]
SPECIAL_OF_INTERNVL = "<img> </img> <IMG_CONTEXT> <quad> </quad> <ref> </ref> <box> </box> <video>".split()

NAMED_BY_INTERNVL = {
    "context_image_token": "<IMG_CONTEXT>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "video_token": "<video>",
}

_SHOW = """
{%- macro show(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- else -%}
    {%- for part in content -%}
      {{- '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text -}}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
"""
_TOOLS = """
{%- if tools -%}
  {{- '<|im_start|>system\\n' -}}
  {%- if messages[0].role == 'system' %}{{- messages[0].content ~ '\\n\\n' -}}{% endif -%}
  {{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided with ' -}}
  {{- 'function signatures within <tools></tools> XML tags:\\n<tools>' -}}
  {%- for tool in tools %}{{- '\\n' ~ (tool | tojson) -}}{% endfor -%}
  {{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within ' -}}
  {{- '<tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": ' -}}
  {{- '<args-json-object>}\\n</tool_call><|im_end|>\\n' -}}
{%- elif messages[0].role == 'system' -%}
  {{- '<|im_start|>system\\n' ~ messages[0].content ~ '<|im_end|>\\n' -}}
{%- endif -%}
"""

# Tools, images anywhere, results of neighbouring tool messages in one message of the user.
QWEN3_VL = (
    _SHOW
    + _TOOLS
    + """
{%- for message in messages -%}
  {%- if message.role == 'tool' -%}
    {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' -}}{% endif -%}
    {{- '\\n<tool_response>\\n' ~ show(message.content) ~ '\\n</tool_response>' -}}
    {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' -}}{% endif -%}
  {%- elif message.role != 'system' -%}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ show(message.content) ~ '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' -}}{% endif -%}
"""
)

# Tools, but content must be a string: joining a list to it is an error.
QWEN2_5_TEXT = (
    _TOOLS
    + """
{%- for message in messages -%}
  {%- if message.role == 'tool' -%}
    {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' -}}
  {%- elif message.role != 'system' -%}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' -}}{% endif -%}
"""
)

# Images, a system message of its own where there is none, and not a word about tools.
QWEN2_5_VL = (
    _SHOW
    + """
{%- for message in messages -%}
  {%- if loop.first and message.role != 'system' -%}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
  {%- endif -%}
  {{- '<|im_start|>' ~ message.role ~ '\\n' ~ show(message.content) ~ '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' -}}{% endif -%}
"""
)
INTERNVL3 = QWEN2_5_VL.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\\n").replace(
    "loop.first", "false"
)
THINKING = QWEN3_VL.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'")
TRIMMING = QWEN3_VL.replace("- content -", "- content | trim -").replace("else part.text", "else part.text | trim")


@functools.cache
def _trained() -> str:
    """A byte-level vocabulary of 500 pieces, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    # Pieces across the end of a tag, as large vocabularies have them.
    lines = [*build_corpus(TWO, documents=50), *['text>\n\n<a>\n "b":\n\n'] * 50]
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer.to_str()


def write_folder(
    folder: Path,
    family: str,
    jinja: str | None = None,
    legacy: str | None = None,
    config: str | list | None = None,
    base: str | None = None,
    **more: Any,
) -> Path:
    """Tokenizer files and templates.

    Args:
      family: ``"qwen3"``, ``"qwen2.5"`` (``<tool_response>`` and ``<think>`` are spelt out) or ``"internvl"``.
      jinja, legacy, config: chat_template.jinja, chat_template.json, the entry of tokenizer_config.json.
      base: a tokenizer without added tokens, as JSON; the small one by default.
      more: entries of config.json.
    """
    tokenizer = Tokenizer.from_str(base or _trained())
    added = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    added += [AddedToken(text, special=False, normalized=False) for text in PLAIN]
    if family == "qwen3":
        added += [AddedToken(text, special=False, normalized=False) for text in PLAIN_OF_QWEN3]
    if family == "internvl":
        added += [AddedToken(text, special=True, normalized=False) for text in SPECIAL_OF_INTERNVL]
    for token in added:  # one by one: otherwise the special ones come first
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
    }
    if family == "internvl":
        settings |= NAMED_BY_INTERNVL | {"extra_special_tokens": NAMED_BY_INTERNVL}
    if config is not None:
        settings["chat_template"] = config
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if jinja is not None:
        (folder / "chat_template.jinja").write_text(jinja)
    if legacy is not None:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": legacy}))
    if more:
        (folder / "config.json").write_text(json.dumps(more))
    return folder
