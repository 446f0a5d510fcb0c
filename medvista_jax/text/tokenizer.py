"""Tokenizers behind one small protocol. All the device knows of text is :meth:`token_bytes`."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import sentencepiece

TAGS = (
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<answer>",
    "</answer>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)
"""Strings of the dialect. The tiny vocabulary holds each as one symbol; a hub's may spell some out."""

TINY_MODEL = Path(__file__).with_name("medvista_tiny.model")

_SPACE_MARK = "\u2581"  # how SentencePiece writes a space inside a piece


@runtime_checkable
class Tokenizer(Protocol):
    """What this package asks of a tokenizer.

    Attributes:
      vocab_size: number of ids V.
      pad_id: id that fills unused slots.
      special: text → id of symbols that stand alone; at least ``<|image_pad|>`` and ``<|im_end|>``.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def special(self) -> Mapping[str, int]: ...

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; special symbols written in the text become their ids."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``; bytes that are not UTF-8 become U+FFFD."""
        ...

    def token_bytes(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [V, M] bytes of each id, zero-padded, and int32 [V] how many. Pad stands for none."""
        ...


def encode_plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of text that must not open or close anything: a tag spelt out in it stays ordinary characters.

    Each tag of :data:`TAGS` and each special symbol of the tokenizer is cut after its first character, and
    the two parts are encoded alone. Decoding gives ``text`` back.
    """
    return encode_between(tokenizer, "", text, "")


def encode_between(tokenizer: Tokenizer, before: str, text: str, after: str) -> list[int]:
    """Ids of ``before + text + after`` where tags act in ``before`` and ``after`` only.

    Text without a tag is encoded in one go with what stands around it, for pieces of a vocabulary reach across the
    borders. A tag in ``text``, or one that ``text`` would complete, is cut as :func:`encode_plain` says.
    """
    symbols = sorted({*TAGS, *tokenizer.special} - {"\n"}, key=len, reverse=True)
    whole, start, stop = before + text + after, len(before), len(before) + len(text)
    # Looked for at every place, for tags may overlap.
    found = re.finditer(f"(?=({'|'.join(map(re.escape, symbols))}))", whole)
    cuts = [match.start() + 1 for match in found if match.start() < stop and match.end(1) > start]
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return [token for part in parts for token in tokenizer.encode(part)]


def pack_token_bytes(pieces: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of each id as one table.

    Returns:
      uint8 [V, M], zero-padded, where M is the longest piece (at least 1), and int32 [V] lengths.
    """
    lengths = np.array([len(piece) for piece in pieces], np.int32)
    table = np.zeros((len(pieces), max(1, int(lengths.max(initial=0)))), np.uint8)
    for index, piece in enumerate(pieces):
        table[index, : len(piece)] = np.frombuffer(piece, np.uint8)
    return table, lengths


@dataclasses.dataclass(frozen=True)
class SentencePieceTokenizer:
    """A SentencePiece model trained by :mod:`medvista_jax.text.train_tokenizer`.

    ``decode(encode(text)) == text`` for every string without lone surrogates: identity normalisation, no
    dummy prefix, byte fallback, digits one by one.

    Attributes:
      path: the ``.model`` file.

    Raises:
      OSError: on first use, when the file cannot be read.
      ValueError: on first use, when it is no SentencePiece model, has no pad id or lacks byte fallback.
    """

    path: str | Path = TINY_MODEL

    @functools.cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        model = Path(self.path).read_bytes()
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"{self.path} is no SentencePiece model: {error}") from None
        if processor.pad_id() < 0:
            raise ValueError(f"{self.path}: the model has no pad id; train it with train_tokenizer.py")
        if processor.piece_to_id("<0x00>") == processor.unk_id():
            raise ValueError(f"{self.path}: the model has no byte fallback; train it with train_tokenizer.py")
        return processor

    @functools.cached_property
    def _byte_ids(self) -> tuple[int, ...]:
        return tuple(self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256))

    @functools.cached_property
    def _pieces(self) -> tuple[bytes, ...]:
        processor, of_byte = self._processor, {i: byte for byte, i in enumerate(self._byte_ids)}
        pieces = []
        for index in range(processor.vocab_size()):
            if index in of_byte:
                pieces.append(bytes([of_byte[index]]))
            elif processor.is_control(index) or processor.is_unknown(index):
                pieces.append(b"")
            else:
                pieces.append(processor.id_to_piece(index).replace(_SPACE_MARK, " ").encode())
        return tuple(pieces)

    @property
    def vocab_size(self) -> int:
        return self._processor.vocab_size()

    @property
    def pad_id(self) -> int:
        return self._processor.pad_id()

    @functools.cached_property
    def special(self) -> dict[str, int]:
        return {tag: self._processor.piece_to_id(tag) for tag in (*TAGS, "\n")}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        # A space mark in the text would be taken for a space, and NUL ends a C string: both go byte by byte.
        for part in re.split(f"([{_SPACE_MARK}\0])", text):
            if part in (_SPACE_MARK, "\0"):
                ids.extend(self._byte_ids[byte] for byte in part.encode())
            elif part:
                ids.extend(self._processor.encode(part))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self._pieces[int(i)] for i in ids).decode(errors="replace")

    def token_bytes(self) -> tuple[np.ndarray, np.ndarray]:
        return pack_token_bytes(self._pieces)


@functools.cache
def _gpt2_byte_decoder() -> dict[str, int]:
    """Character → byte of the byte-level BPE alphabet (openai/gpt-2, ``encoder.py``)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(rest)}


@dataclasses.dataclass(frozen=True)
class HubTokenizer:
    """A Hugging Face *fast* byte-level BPE tokenizer (Qwen, SmolLM2, GPT-2) behind :class:`Tokenizer`.

    Text comes back as the tokenizer's own normaliser leaves it (Qwen's composes accents, NFC).

    Attributes:
      backend: a ``tokenizers.Tokenizer``, or a transformers fast tokenizer (its ``backend_tokenizer`` is
        taken).
      pad: text of the pad symbol.
      size: rows of the model's embedding where they outnumber the vocabulary; 0 takes the vocabulary's.

    Raises:
      KeyError: from :attr:`pad_id` or :attr:`special`, when a symbol is not in the vocabulary.
    """

    backend: Any
    pad: str = "<|endoftext|>"
    size: int = 0

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return getattr(self.backend, "backend_tokenizer", self.backend)

    @functools.cached_property
    def special(self) -> dict[str, int]:
        return {token.content: index for index, token in self._tokenizer.get_added_tokens_decoder().items()}

    @property
    def vocab_size(self) -> int:
        return max(self.size, self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def pad_id(self) -> int:
        index = self._tokenizer.token_to_id(self.pad)
        if index is None:
            raise KeyError(f"pad symbol {self.pad!r} is not in the vocabulary")
        return index

    @functools.cached_property
    def _pieces(self) -> tuple[bytes, ...]:
        decoder = _gpt2_byte_decoder()
        pieces = [b""] * self.vocab_size
        for piece, index in self._tokenizer.get_vocab(with_added_tokens=False).items():
            pieces[index] = bytes(decoder[character] for character in piece if character in decoder)
        for text, index in self.special.items():
            pieces[index] = text.encode()
        pieces[self.pad_id] = b""
        return tuple(pieces)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self._pieces[int(i)] for i in ids).decode(errors="replace")

    def token_bytes(self) -> tuple[np.ndarray, np.ndarray]:
        return pack_token_bytes(self._pieces)
