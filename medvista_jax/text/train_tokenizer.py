"""Train the tiny model's tokenizer. The same corpus gives the same bytes.

    python -m medvista_jax.text.train_tokenizer --corpus FILE --out medvista_tiny.model

The corpus is a text file, one document a line. The shipped model comes from the atlas' own episodes:
``python -m medvista_jax.data.tokenizer_corpus --out corpus.txt``, with the defaults below.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from medvista_jax.text.tokenizer import TAGS


def train(documents: Iterable[str], vocab_size: int = 768, max_piece_length: int = 32) -> bytes:
    """A serialised SentencePiece model.

    Pieces may cross words and scripts, so that the skeleton of a frequent call is a few tokens; digits are
    always alone; tags and the newline are single symbols; what the pieces cannot spell falls back to bytes.

    Args:
      documents: texts; tags in them count as symbols.
      vocab_size: upper bound of the vocabulary, byte tokens (256) and tags included. A small corpus gives
        fewer.
      max_piece_length: longest piece in characters.

    Raises:
      RuntimeError: from SentencePiece, when the corpus is empty or ``vocab_size`` cannot hold the symbols.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(documents),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        max_sentencepiece_length=max_piece_length,
        max_sentence_length=1 << 16,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_whitespace=False,
        split_by_unicode_script=False,
        split_by_number=False,
        treat_whitespace_as_suffix=True,  # a piece may end in a space, not begin with one: ", " before digits
        split_digits=True,
        byte_fallback=True,
        character_coverage=1.0,
        user_defined_symbols=[*TAGS, "\n", *"0123456789-"],
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        shuffle_input_sentence=False,
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="text file, one document a line")
    parser.add_argument("--out", type=Path, required=True, help="where the .model file goes")
    parser.add_argument("--vocab-size", type=int, default=768)
    parser.add_argument("--max-piece-length", type=int, default=32)
    arguments = parser.parse_args()
    lines = arguments.corpus.read_text(encoding="utf-8").split("\n")
    arguments.out.write_bytes(train((line for line in lines if line), arguments.vocab_size, arguments.max_piece_length))
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
