"""BLEU and ROUGE of one answer against one reference, as the libraries compute them that MedEvalKit calls.

BLEU is that of nltk/nltk (``sentence_bleu``, no smoothing), ROUGE that of pltrdy/rouge@c1b90a7 with its defaults, which
count every n-gram once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from medvista_jax.evaluation.scorers.base import UpstreamFails


def bleu(reply: Sequence[str], reference: Sequence[str], order: int) -> float:
    """Geometric mean of the clipped precisions of 1 … ``order``-grams, times the penalty for short replies.

    A precision of zero makes the score zero; nltk puts the smallest float there instead, which leaves less than 1e-76.

    Args:
      reply, reference: tokens; neither is empty.
      order: longest n-gram.
    """
    logarithms = []
    for n in range(1, order + 1):
        grams, known = (Counter(zip(*(tokens[i:] for i in range(n)), strict=False)) for tokens in (reply, reference))
        shared = (grams & known).total()
        if not shared:
            return 0.0
        logarithms.append(math.log(shared / grams.total()))
    short = min(0.0, 1 - len(reference) / len(reply))
    return math.exp(short + math.fsum(logarithms) / order)


def rouge(reply: str, reference: str) -> dict[str, float]:
    """F-scores ``rouge1``, ``rouge2`` and ``rougel``.

    Args:
      reply, reference: texts; full stops end their sentences.

    Raises:
      UpstreamFails: one of them has no sentence.
    """
    replied, known = _sentences(reply), _sentences(reference)
    for name, sentences in (("Hypothesis", replied), ("Reference", known)):
        if not sentences:
            raise UpstreamFails(f"ValueError: {name} is empty.")
    scores = {}
    for n in (1, 2):
        a, b = (_grams(sentences, n) for sentences in (replied, known))
        scores[f"rouge{n}"] = _f(len(a & b), len(a), len(b))
    # The summary-level variant: the words of all longest common subsequences, each counted once.
    pairs = ((b.split(" "), a.split(" ")) for b in known for a in replied)
    common = {word for pair in pairs for word in _longest_common(*pair)}
    scores["rougel"] = _f(len(common), len(_grams(replied, 1)), len(_grams(known, 1)))
    return scores


def _sentences(text: str) -> list[str]:
    """Without runs of spaces; a sentence of nothing but space stays, as an empty word."""
    return [" ".join(sentence.split()) for sentence in text.split(".") if sentence]


def _grams(sentences: list[str], n: int) -> set[tuple[str, ...]]:
    """Over the words of all sentences in a row, so that some n-grams span two of them."""
    words = " ".join(sentences).split(" ")
    return set(zip(*(words[i:] for i in range(n)), strict=False))


def _f(shared: int, replied: int, known: int) -> float:
    precision, recall = (shared / count if count else 0.0 for count in (replied, known))
    return 2 * precision * recall / (precision + recall + 1e-8)


def _longest_common(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """A longest common subsequence; of several, the one found by walking back with ``b`` given up first."""
    lengths = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, word in enumerate(a, 1):
        for j, other in enumerate(b, 1):
            same = word == other
            lengths[i][j] = lengths[i - 1][j - 1] + 1 if same else max(lengths[i - 1][j], lengths[i][j - 1])
    i, j, common = len(a), len(b), []
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            common.append(a[i])
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return common
