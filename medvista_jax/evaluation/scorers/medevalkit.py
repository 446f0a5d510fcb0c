"""MedEvalKit's scores of one reply, with their oddities (alibaba-damo-academy/MedEvalKit@9b12e3b).

Reproduced so that numbers published with it can be reproduced; ``fixed.score`` is what to use otherwise.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from medvista_jax.core.conformance import BadCase
from medvista_jax.evaluation.scorers.base import Case, Result, UpstreamFails, text_of
from medvista_jax.evaluation.scorers.overlap import bleu, rouge

MARKERS = (
    "**answer**:",
    "**answer**",
    "*answer*:",
    "**answer:**",
    "answer is",
    "answer:",
    "答案:",
    "final answer",
    "final answer is",
)
"""What the answer stands behind, in the order in which the text is cut."""


def boxed(text: str) -> str | None:
    """What stands in the last ``\\boxed{…}``, None where it is missing or not closed (hiyouga/MathRuler@14dadeb)."""
    _, found, rest = text.rpartition("\\boxed{")
    depth = 0
    for i, character in enumerate(rest if found else ""):
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return rest[:i].strip()
    return None


def tagged(text: str, tag: str) -> str:
    """What stands in all pairs of tags, joined with spaces; the whole text where that is nothing."""
    parts, start = [], 0
    while (opened := text.find(f"<{tag}>", start)) >= 0:
        begin = opened + len(tag) + 2
        end = text.find(f"</{tag}>", begin)
        if end < 0:
            break
        parts.append(text[begin:end])
        start = end + len(tag) + 3
    return " ".join(parts).strip() or text


def parse_response(reply: str) -> str:
    """The answer in lower case. A reply that says "boxed" without a box becomes ``"None"``."""
    text = reply.lower()
    if "boxed" in text:
        content = boxed(text)
        text = "None" if content is None else content
    elif "<answer>" in text:
        text = tagged(text, "answer")
    for marker in MARKERS:
        text = text.rpartition(marker)[2]
    return text


def _unwrapped(reply: str) -> str:
    """What the benchmarks do before any scorer sees the reply: here the case of letters still counts."""
    content = boxed(reply)
    if content not in (None, "None"):
        return content
    return tagged(reply, "answer") if "<answer>" in reply else reply


def _plain(reply: str) -> str:
    return parse_response(reply).replace("\n", "").replace(".", "")


def judge_yes_no(gold: str, reply: str) -> bool:
    """The gold word occurs, and only one of "yes" and "no" does. Both are looked for inside words too."""
    text = _plain(reply)
    return ("yes" in text) != ("no" in text) and gold.lower() in text


def f1_scores(reply: str, gold: str) -> tuple[float, float, float] | None:
    """F1, precision and recall over the *sets* of words; None where one has no word."""
    replied, known = (set(text.lower().split()) for text in (reply, gold))
    if not replied or not known:
        return None
    precision, recall = (len(replied & known) / len(words) for words in (replied, known))
    return 2 * precision * recall / ((precision + recall) or 1), precision, recall


def judge_open(gold: str, reply: str) -> dict[str, float]:
    """Exact match and overlap of an open answer. F1, precision and recall come out under each other's names.

    Raises:
      UpstreamFails: an empty reply.
    """
    gold, text = gold.lower(), parse_response(reply)
    tokens = [part.lower().replace(".", " .").split(" ") for part in (text, gold)]
    scores: dict[str, float] = {"em": text == gold}
    scores |= {f"bleu{n}": bleu(*tokens, n) for n in (1, 2, 3, 4)}
    scores |= rouge(text.lower(), gold)
    overlap = f1_scores(text, gold)
    if overlap is None:
        raise UpstreamFails("TypeError: cannot unpack non-iterable int object")
    return scores | dict(zip(("precision", "recall", "f1"), overlap, strict=True))


def judge_choice(choices: Sequence[str], gold: str, reply: str) -> bool:
    """A letter, an option's text, or else the option whose spelling is nearest: the first one for an empty reply."""
    letters = [chr(ord("a") + i) for i in range(len(choices))]
    choices = [choice.lower() for choice in choices]
    text = reply.lower()
    paragraphs = text.split("\n\n")
    for part in (paragraphs[0], paragraphs[-1].split(".")[0]):
        if part in letters:
            text = part
            break
    text = parse_response(text).strip().lower().replace("\n", "")
    short = text.split(".")[0].split(":")[-1]
    gold = gold.strip().lower()
    if short == gold:
        return True
    if short in letters:
        return choices[letters.index(short)] == gold
    if short in choices:
        return gold in letters and choices[letters.index(gold)] == short
    likeness = [difflib.SequenceMatcher(None, choice, text).ratio() for choice in choices]
    nearest = likeness.index(max(likeness))
    return gold in (letters[nearest], choices[nearest])


def judge_sample(gold: str, reply: str, dataset: str, answer_type: str = "") -> tuple[str, bool, dict[str, float]]:
    """One item of a benchmark of open and closed questions.

    Args:
      gold: the benchmark's answer.
      reply: what the model wrote.
      dataset: ``"SLAKE"``, ``"VQA_RAD"`` or ``"PATH_VQA"``; the last two are scored alike.
      answer_type: SLAKE's; ``"OPEN"`` is open. The others call a question closed whose answer is yes or no.

    Returns:
      ``"open"`` or ``"close"``, whether the reply is right, and the scores of :func:`judge_open`.

    Raises:
      UpstreamFails: an empty reply to an open question.
    """
    reply = _unwrapped(reply)
    if dataset == "SLAKE":
        closed = answer_type != "OPEN"
    else:
        gold, reply = gold.lower().strip(), reply.lower().strip()
        closed = gold in ("yes", "no")
    if not closed:
        scores = judge_open(gold, reply)
        return "open", bool(scores["em"]), scores
    correct = judge_yes_no(gold, reply) if gold in ("yes", "no") else _plain(reply) == gold.lower()
    return "close", correct, {}


def vqa_rad_pathvqa(case: Case) -> Result:
    """VQA-RAD and PathVQA: a yes/no word anywhere in the reply, or exact match and overlap.

    Source: alibaba-damo-academy/MedEvalKit@9b12e3b, utils/VQA_RAD/VQA_RAD.py, utils/PATH_VQA/PATH_VQA.py.
    """
    return _sample_result(case, "VQA_RAD")


def slake(case: Case) -> Result:
    """SLAKE: open and closed by its own label.

    Source: alibaba-damo-academy/MedEvalKit@9b12e3b, utils/SLAKE/SLAKE.py.
    """
    return _sample_result(case, "SLAKE", text_of(case, "answer_type"))


def _sample_result(case: Case, dataset: str, answer_type: str = "") -> Result:
    bucket, correct, scores = judge_sample(text_of(case, "gold"), text_of(case, "prediction"), dataset, answer_type)
    renamed = {f"reported_{name}": scores[name] for name in ("precision", "recall", "f1") if scores}
    renamed |= {f"rouge{n}_f": scores[f"rouge{n}"] for n in "12l" if scores}
    return {"bucket": bucket, "correct": correct, **scores, **renamed}


def calculate_f1(case: Case) -> Result:
    """Word overlap as F1, precision, recall; its caller takes them for precision, recall, F1.

    Source: alibaba-damo-academy/MedEvalKit@9b12e3b, utils/utils.py.
    """
    overlap = f1_scores(text_of(case, "prediction"), text_of(case, "gold"))
    return {"returned": 0 if overlap is None else list(overlap), "meaning": ["f1", "precision", "recall"]}


def multi_choice(case: Case) -> Result:
    """PMC-VQA and MedXpertQA: letter, option text, or the option spelled most like the reply.

    Source: alibaba-damo-academy/MedEvalKit@9b12e3b, utils/utils.py.
    """
    choices = case.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise BadCase('"choices" is not a list of at least one text')
    return {"correct": judge_choice(choices, text_of(case, "gold"), text_of(case, "prediction"))}
