"""``retrieve``: passages of a text that the user names, ranked by Okapi BM25.

The libraries do not serve: ``rank-bm25`` visits every document for every word, and ``bm25s`` runs a JAX computation
when it is imported, which starts the accelerator of a process that may not want one.
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medvista_jax.core.tool_spec import Argument
from medvista_jax.tools.host.batch import clean_text
from medvista_jax.tools.host.call import HostTool
from medvista_jax.tools.host.declare import host_tool

SUFFIXES = (".jsonl", ".md", ".txt")
NOTHING = "no passage found"


class Passage(NamedTuple):
    title: str
    text: str


class Bm25:
    """Okapi BM25 over a fixed list of documents.

    A document's score for a query is the sum over the query's words of ``idf · f · (k1 + 1) / (f + k1 · (1 - b +
    b · length / mean length))`` with ``f`` the word's count in the document and ``idf = ln(1 + (N - n + ½) / (n +
    ½))``, ``n`` of ``N`` documents holding the word (Robertson and Zaragoza, The Probabilistic Relevance Framework,
    2009; the 1 in the logarithm, as in Lucene, keeps words that most documents hold from counting against them).

    Args:
      documents: their texts; words are runs of letters and digits, compared without case.
      k1: how soon a repeated word counts no more.
      b: how far long documents are discounted, 0 to 1.
    """

    def __init__(self, documents: Sequence[str], k1: float = 1.2, b: float = 0.75):
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"BM25 wants k1 >= 0 and b in 0…1, not k1={k1}, b={b}")
        counts = [collections.Counter(words(document)) for document in documents]
        lengths_N = np.array([count.total() for count in counts], float)
        norm_N = k1 * (1 - b + b * lengths_N / max(lengths_N.mean(), 1.0)) if documents else lengths_N
        holders = collections.defaultdict(list)
        for index, count in enumerate(counts):
            for word in count:
                holders[word].append(index)
        self._size = len(documents)
        self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, at in holders.items():
            f = np.array([counts[index][word] for index in at], float)
            idf = np.log1p((self._size - len(at) + 0.5) / (len(at) + 0.5))
            self._weights[word] = (np.array(at), idf * f * (k1 + 1) / (f + norm_N[at]))

    def scores(self, query: str) -> np.ndarray:
        """float64 [N], zero where a document holds none of the query's words."""
        total_N = np.zeros(self._size)
        for word in words(query):
            if word in self._weights:
                at, weights = self._weights[word]
                total_N[at] += weights
        return total_N

    def best(self, query: str, most: int) -> list[int]:
        """Indices of the highest scores, best first and earlier documents first among equals; none without a hit."""
        total_N = self.scores(query)
        return [int(at) for at in np.argsort(-total_N, kind="stable")[:most] if total_N[at] > 0]


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def read_passages(path: str | Path) -> list[Passage]:
    """The passages of a file or of all files of a folder.

    A ``.jsonl`` file holds an object a line, ``{"title": …, "text": …}``, title optional. In any other file a
    passage is a paragraph: lines up to an empty one, titled with the file's name where a folder was given. In a folder
    the files ``.jsonl``, ``.md`` and ``.txt`` are read, those in its folders too, in the order of their paths.

    Raises:
      ValueError: for a line that is not such an object, a file that is not UTF-8, or when there is no passage.
      FileNotFoundError: when there is nothing at the path.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"retrieve: there is no file or folder {path}")
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        passages = [passage for file in files for passage in _passages_of(file, file.stem)]
    else:
        passages = list(_passages_of(path, ""))
    if not passages:
        wanted = f" (files that end with {', '.join(SUFFIXES)} are read)" if path.is_dir() else ""
        raise ValueError(f"retrieve: no passage in {path}{wanted}")
    return passages


def _passages_of(path: Path, title: str) -> Iterator[Passage]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"retrieve: {path} is not UTF-8 text (byte {error.start})") from None
    if path.suffix != ".jsonl":
        for paragraph in re.split(r"\n[ \t]*\n", text):
            if words(paragraph):
                yield Passage(title, " ".join(paragraph.split()))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ValueError(f"retrieve: {path}, line {number}: not JSON: {error}") from None
        if not isinstance(value, dict) or not all(isinstance(value.get(key, ""), str) for key in ("title", "text")):
            raise ValueError(f'retrieve: {path}, line {number}: an object {{"title": …, "text": …}} is wanted')
        if words(value.get("text", "")):
            yield Passage(value.get("title", title), " ".join(value["text"].split()))


def make_retrieve(
    path: str | Path, passages: int = 3, passage_bytes: int = 500, k1: float = 1.2, b: float = 0.75
) -> HostTool:
    """The tool over one text, which is read now and kept in memory.

    Args:
      path: see :func:`read_passages`.
      passages: how many a reply holds at most.
      passage_bytes: UTF-8 bytes of a passage that are shown, its title included; all of it is searched.
      k1, b: see :class:`Bm25`.

    Raises:
      ValueError, FileNotFoundError: see :func:`read_passages`.
    """
    if passages < 1 or passage_bytes < 1:
        raise ValueError(f"retrieve: passages and passage_bytes must be positive, not {passages} and {passage_bytes}")
    shelf = read_passages(path)
    index = Bm25([f"{passage.title} {passage.text}" for passage in shelf], k1, b)

    @host_tool(
        "Look up passages of a reference text.",
        Argument("query", "words to look for", "string", 1, 200),
        text_bytes=passages * (passage_bytes + 8),
    )
    def retrieve(query: str) -> str:
        found = [shelf[at] for at in index.best(query, passages)]
        shown = [clean_text(f"{p.title}: {p.text}" if p.title else p.text, passage_bytes) for p in found]
        return "\n".join(f"[{rank}] {text}" for rank, text in enumerate(shown, 1)) or NOTHING

    return retrieve
