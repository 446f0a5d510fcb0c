"""A tokenizer whose ids are bytes: for callers who have text and no model's vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

_PAD, _IMAGE, _END = 256, 257, 258


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """Id ``b`` is byte ``b`` of UTF-8; three ids beyond spell nothing. No text can name those: tags that are written
    out are their bytes.
    """

    @property
    def vocab_size(self) -> int:
        return 259

    @property
    def pad_id(self) -> int:
        return _PAD

    @property
    def special(self) -> Mapping[str, int]:
        return {"<|image_pad|>": _IMAGE, "<|im_end|>": _END}

    def encode(self, text: str) -> list[int]:
        """Bytes of any string; lone surrogates, which UTF-8 has not, take three."""
        return list(text.encode(errors="surrogatepass"))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids that are bytes; what is no UTF-8 becomes U+FFFD."""
        return bytes(int(token) for token in ids if token < 256).decode(errors="replace")

    def token_bytes(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8 ``[259, 1]`` and int32 ``[259]``."""
        pieces_VM = np.zeros((self.vocab_size, 1), np.uint8)
        pieces_VM[:256, 0] = np.arange(256)
        return pieces_VM, (np.arange(self.vocab_size) < 256).astype(np.int32)
