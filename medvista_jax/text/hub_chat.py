"""Prompts and observations of hub models: the chat template that lies beside the weights renders them.

A folder holds ``tokenizer.json``, ``tokenizer_config.json`` and a template (``chat_template.jinja``,
``chat_template.json`` or an entry of ``tokenizer_config.json``). Its text is tokenized in one go, as
``tokenizer.apply_chat_template(messages, tools=…)`` does; then the symbol that the template writes for an image is
repeated, once for every embedding. What a user writes cannot act as a tag.

Where the template leaves something open, Qwen's dialect fills in: a template that shows no tools gets them in its
system message, one that has no words for a tool's result gets ``<tool_response>`` in a message of the user.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerFast

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.text.chat import INSTRUCTION, Frame, PromptTokens, tool_block
from medvista_jax.text.tokenizer import HubTokenizer, encode_between

Message = Mapping[str, Any]
"""``role`` and ``content``, a string or a list of ``{"type": "image"}`` and ``{"type": "text", "text": …}``."""

_PROBE = ToolSpec("probe_of_tools", "Asks whether a template shows tools.", ())
_CALL, _RESULT = "0zCallOfProbe0", "0zResultOfProbe0"  # words that no template has


@dataclasses.dataclass(frozen=True)
class ImageSymbols:
    """How a family's processor writes an image: ``opening``, ``symbol`` for every embedding, ``closing``.

    Only what the processor itself adds to what the template wrote: Qwen's templates write their brackets themselves.
    """

    symbol: str
    opening: str = ""
    closing: str = ""


@dataclasses.dataclass(frozen=True)
class HubChat:
    """Prompts and observations by the templates of a hub folder; see :func:`load_chat`.

    Attributes:
      tokenizer: its ``backend`` is a transformers tokenizer, which runs the templates.
      templates: jinja texts; the first is the model's own, the others are asked where it has no words for tools.
      tool_templates: the same in the order in which they are asked about tools.
      image: how an image is written.
    """

    tokenizer: HubTokenizer
    templates: tuple[str, ...]
    tool_templates: tuple[str, ...]
    image: ImageSymbols

    def prompt(
        self,
        question: str,
        image_tokens: Sequence[int],
        tools: Sequence[ToolSpec] = (),
        system: str | None = INSTRUCTION,
    ) -> PromptTokens:
        """System message, one message of the user with all images before the question, and the model's turn opened.

        Args:
          question: plain text: tags spelt out in it do not act as tags.
          image_tokens: how many embeddings each image costs, in order. InternVL: of all its tiles together.
          tools: what is offered; none is allowed.
          system: trusted text, tags in it act; None leaves the message to the template.

        Raises:
          ValueError: when the template fails, or does not show the question or the images exactly once.
        """
        template, schemas, system = self._offer(tools, system)

        def messages(question: str) -> list[Message]:
            content = self._content(template, len(image_tokens), question)
            return [*_system(system), {"role": "user", "content": content}]

        mark = "0zQuestion0"
        while mark in question:
            mark += "0"
        before, _, after = self._apply(template, messages(mark), schemas).partition(mark)
        if mark in after or not after:
            raise ValueError("the chat template does not show the text of the user's message exactly once")
        # Templates may trim the question; what they make of it is as little to be trusted as the question.
        whole = self._try(template, messages(question), schemas) or ""
        kept = whole.startswith(before) and whole.endswith(after) and len(whole) >= len(before) + len(after)
        said = whole[len(before) : len(whole) - len(after)] if kept else question
        return self._expand(encode_between(self.tokenizer, before, said, after), image_tokens)

    @functools.cached_property
    def frame(self) -> Frame:
        """What stands around a tool's result, for :func:`medvista_jax.text.chat.build_observations`.

        The words of the template for a message of role ``tool`` behind one of the assistant, with the model's next
        turn opened.
        """
        template, schemas, system = self._offer((_PROBE,), INSTRUCTION)
        asked = {"role": "user", "content": self._content(template, 1, "Where?")}
        head = [*_system(system), asked, {"role": "assistant", "content": _CALL}]
        around = self._around(template, [*head, {"role": "tool", "content": _RESULT}], schemas)
        if around is None or "<tool_response>" not in around[0]:
            wrapped = f"<tool_response>\n{_RESULT}\n</tool_response>"
            around = self._around(template, [*head, {"role": "user", "content": wrapped}], schemas)
        if around is None:
            raise ValueError("the chat template cannot show a turn of the assistant and a tool's result behind it")
        before, after = around
        image = self._image_text(template)
        parts = [{"type": "image"}, {"type": "text", "text": _RESULT}]
        shown = self._around(template, [*head, {"role": "tool", "content": parts}], schemas)
        if shown is not None and shown[1] == after and shown[0].startswith(before):
            written = shown[0].removeprefix(before)
            image = written if written.count(self.image.symbol) == 1 else image
        if image.count(self.image.symbol) != 1:
            raise ValueError(
                f"the chat template writes {image!r} for an image; {self.image.symbol} must stand there once"
            )
        left, _, right = image.partition(self.image.symbol)
        return Frame(before, after, left + self.image.opening, self.image.closing + right, self.image.symbol)

    def _offer(
        self, tools: Sequence[ToolSpec], system: str | None
    ) -> tuple[str, list[dict[str, Any]] | None, str | None]:
        """Template, schemas and system message that together offer the tools."""
        if not tools:
            return self.templates[0], None, system
        if self._shows_tools is not None:
            return self._shows_tools, [tool.schema() for tool in tools], system
        return self.templates[0], None, "\n\n".join([*([] if system is None else [system]), tool_block(tools)])

    @functools.cached_property
    def _shows_tools(self) -> str | None:
        """The first template that lists the tools it is given."""
        messages = [{"role": "system", "content": "."}, {"role": "user", "content": "."}]
        for template in self.tool_templates:
            text = self._try(template, messages, [_PROBE.schema()])
            if text is not None and _PROBE.name in text:
                return template
        return None

    def _content(self, template: str, images: int, text: str) -> Any:
        """Content of a message: parts where the template takes them, else one string with the images written in."""
        if not images:
            return text
        if self._own_image_text(template) is not None:
            return [*[{"type": "image"}] * images, {"type": "text", "text": text}]
        return self._image_text(template) * images + text

    def _image_text(self, template: str) -> str:
        """How an image stands in a message: in the words of this template, else of another, else in Qwen's."""
        own = self._own_image_text(template)
        if own is not None:
            return own
        for words in map(self._own_image_text, self.templates):
            if words is not None and words.count(self.image.symbol) == 1:
                return words
        if self.image.symbol == "<|image_pad|>":
            return f"<|vision_start|>{self.image.symbol}<|vision_end|>"
        return f"{self.image.symbol}\n"

    def _own_image_text(self, template: str) -> str | None:
        """What a template writes for an image before a text; None where it takes strings only."""
        parts = [{"type": "image"}, {"type": "text", "text": _RESULT}]
        bare, shown = (self._try(template, [{"role": "user", "content": content}]) for content in (_RESULT, parts))
        if bare is None or shown is None or bare.count(_RESULT) != 1:
            return None
        before, _, after = bare.partition(_RESULT)
        words = shown.removeprefix(before).removesuffix(_RESULT + after)
        return words if before + words + _RESULT + after == shown else None

    def _around(
        self, template: str, messages: Sequence[Message], schemas: list[dict[str, Any]] | None
    ) -> tuple[str, str] | None:
        """What stands between call and result, and behind the result."""
        text = self._try(template, messages, schemas)
        if text is None or text.count(_CALL) != 1 or text.count(_RESULT) != 1:
            return None
        before, _, after = text.partition(_CALL)[2].partition(_RESULT)
        return before, after

    def _apply(self, template: str, messages: Sequence[Message], schemas: list[dict[str, Any]] | None = None) -> str:
        """The text of a conversation, with the model's next turn opened."""
        try:
            return self.tokenizer.backend.apply_chat_template(
                list(messages), tools=schemas, chat_template=template, add_generation_prompt=True, tokenize=False
            )
        except (jinja2.TemplateError, TypeError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(f"the chat template fails on messages of {roles}: {error}") from error

    def _try(
        self, template: str, messages: Sequence[Message], schemas: list[dict[str, Any]] | None = None
    ) -> str | None:
        try:
            return self._apply(template, messages, schemas)
        except ValueError:
            return None

    def _expand(self, ids: Sequence[int], image_tokens: Sequence[int]) -> PromptTokens:
        """Ids with each image's symbol repeated, and which embedding stands where."""
        symbol = self.tokenizer.special[self.image.symbol]
        if ids.count(symbol) != len(image_tokens):
            raise ValueError(
                f"the chat template wrote {self.image.symbol} {ids.count(symbol)} times for {len(image_tokens)} images"
            )
        opening, closing = (self.tokenizer.encode(text) for text in (self.image.opening, self.image.closing))
        widest, image = max(image_tokens, default=0), 0
        tokens: list[int] = []
        feature: list[int] = []
        for token in ids:
            if token != symbol:
                tokens.append(token)
                feature.append(-1)
                continue
            count = image_tokens[image]
            tokens += [*opening, *[symbol] * count, *closing]
            feature += [-1] * len(opening) + list(range(image * widest, image * widest + count)) + [-1] * len(closing)
            image += 1
        return PromptTokens(tokens, feature)


def _system(text: str | None) -> list[Message]:
    return [] if text is None else [{"role": "system", "content": text}]


def load_chat(folder: str | Path) -> HubChat:
    """Tokenizer and chat templates of a hub folder. Nothing is fetched, no code of the folder is run.

    Raises:
      FileNotFoundError, ValueError: naming the file that is missing or wrong.
    """
    folder = Path(folder)
    tokenizer = load_tokenizer(folder)
    templates, tool_templates = _read_templates(folder)
    return HubChat(tokenizer, templates, tool_templates, _image_symbols(folder, tokenizer))


def load_tokenizer(folder: str | Path) -> HubTokenizer:
    """The tokenizer of a hub folder, as wide as the embedding that its ``config.json`` speaks of.

    Raises:
      FileNotFoundError, ValueError: naming the file that is missing or wrong.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no tokenizer.json. Copy it from where the weights come from; of an older checkpoint with "
            "vocab.json and merges.txt, transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…) makes one"
        )
    content = _read_json(path)
    model, decoder = content.get("model"), json.dumps(content.get("decoder"))
    if "added_tokens" not in content or not isinstance(model, dict) or model.get("type") != "BPE":
        raise ValueError(f"{path} is no BPE tokenizer as the tokenizers package writes them")
    if "ByteLevel" not in decoder:
        raise ValueError(f"{path} is not byte-level (its decoder is {decoder}); Qwen's, InternVL's and SmolLM2's are")
    if (folder / "tokenizer_config.json").is_file():
        _read_json(folder / "tokenizer_config.json")
    backend = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    pads = (backend.pad_token, "<|endoftext|>", backend.eos_token)
    known = backend.get_added_vocab()
    pad = next((text for text in pads if text in known), None)
    if pad is None:
        raise ValueError(f"{folder / 'tokenizer_config.json'} names no pad_token that the vocabulary has")
    return HubTokenizer(backend, pad=pad, size=_config(folder, "vocab_size") or 0)


def _config(folder: Path, key: str) -> Any:
    """An entry of ``config.json``, at the top or of the text model; None where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    config = _read_json(path)
    text = config.get("text_config") or {}
    return text.get(key, config.get(key))


def _image_symbols(folder: Path, tokenizer: HubTokenizer) -> ImageSymbols:
    """From ``image_token_id`` of ``config.json`` and the named symbols of ``tokenizer_config.json``."""
    named, special = tokenizer.backend.special_tokens_map, tokenizer.special
    of_id = {index: text for text, index in special.items()}
    symbols = (
        of_id.get(_config(folder, "image_token_id")),
        named.get("context_image_token"),
        "<|image_pad|>",
        "<IMG_CONTEXT>",
    )
    symbol = next((text for text in symbols if text in special), None)
    if symbol is None:
        raise ValueError(
            f"{folder}: the vocabulary has no symbol for an image: neither the image_token_id of config.json, nor "
            "<|image_pad|>, nor <IMG_CONTEXT>"
        )
    brackets = named.get("start_image_token", "<img>"), named.get("end_image_token", "</img>")
    if symbol == "<|image_pad|>" or not set(brackets) <= special.keys():
        return ImageSymbols(symbol)
    return ImageSymbols(symbol, *brackets)


def _read_templates(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Templates in order of authority, and in the order in which they are asked about tools."""
    sources: list[dict[str, str]] = []
    if (folder / "chat_template.jinja").is_file():
        found = {"default": (folder / "chat_template.jinja").read_text(encoding="utf-8")}
        more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        sources.append(found | {path.stem: path.read_text(encoding="utf-8") for path in more})
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = folder / name
        found = _read_json(path).get("chat_template") if path.is_file() else None
        if isinstance(found, str):
            sources.append({"default": found})
        elif isinstance(found, list):
            sources.append({entry["name"]: entry["template"] for entry in found})
    templates = [source["default"] for source in sources if "default" in source]
    if not templates:
        raise ValueError(
            f"{folder} has no chat template: no chat_template.jinja, no chat_template.json, and no entry chat_template "
            "in tokenizer_config.json. Copy it from where the weights come from"
        )
    asked = [source[name] for source in sources for name in ("tool_use", "default") if name in source]
    return tuple(dict.fromkeys(templates)), tuple(dict.fromkeys(asked))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object")
    return content
