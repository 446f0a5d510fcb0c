"""Reads what a reply answers: the final answer's text, yes or no, an option. None stands for "cannot be told"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from medvista_jax.evaluation.scorers.medevalkit import boxed

YES = frozenset("yes yeah yep true 是 是的 有 包含 可以 能 会".split())
NO = frozenset("no nope false 否 不是 没有 无 不包含 不能 不会 不可以 不".split())

_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
_LEAD = re.compile(
    r"(?:\b(?:answer|result|diagnosis)(?:\s+is\b|\**\s*[:=：]\**)(?:\s*[:：])?|答案(?:是|[:：])|=)", re.IGNORECASE
)
_DROPPED = re.compile(r"['’`‐‑-]")
_MARKS = re.compile(r"(?<!\d)\.|\.(?!\d)|[^\w\s.−]|_")
_ARTICLES = frozenset(("a", "an", "the"))
_UNSURE = re.compile(
    r"\b(?:not|cannot|cant|dont|unable to|unclear|unknown|uncertain|impossible to|hard to)\b"
    r"(?:\s+(?:be|been|enough|really|\w+ly))?"
    r"(?:\s+(?:sure|certain|clear|know|known|tell|determine\w*|say|see|assess\w*|answer|identify|information))"
    r"|\b(?:unclear|unknown|uncertain|undetermined)\b|不知道|不清楚|不确定|无法"
)
_NEGATED = re.compile(r"\b(?:isnt|arent|wasnt|werent|doesnt|dont|didnt|hasnt|havent|cant|wont|not|cannot|never|none)\b")


def final_answer(reply: str) -> str:
    """The part of a reply that answers.

    Args:
      reply: what the model wrote; reasoning up to ``</think>`` is left out.

    Returns:
      The last ``\\boxed{…}``, else the last ``<answer>``, else what follows the last "answer is", "answer:" and the
      like, else the whole reply; without space around it.
    """
    text = unicodedata.normalize("NFKC", reply).rpartition("</think>")[2]
    content, inside = boxed(text), _TAGGED.findall(text)
    if content is not None:
        text = content
    elif inside:
        text = inside[-1]
    tail = _LEAD.split(text)[-1].strip()
    return tail or text.strip()


def normal_form(text: str) -> str:
    """Lower case; hyphens and apostrophes go, other marks become spaces, articles go unless nothing else is there.

    A point between digits and a minus before a number stay, commas in numbers go.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"(?<![\w)])-(?=[\d.])", "−", text)
    words = _MARKS.sub(" ", _DROPPED.sub("", text)).replace("−", "-").split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def same(reply: str, gold: str) -> bool:
    """Equal normal forms, or numbers that round to the same at the gold number's decimals, two at least."""
    if reply == gold:
        return True
    try:
        found, number = float(reply), float(gold)
    except ValueError:
        return False
    decimals = max(2, len(gold.partition(".")[2]))
    return round(found, decimals) == round(number, decimals)


def yes_no(answer: str) -> bool | None:
    """Whether an answer says yes. Whole words only; a word for yes behind "not" is a no.

    Args:
      answer: :func:`final_answer` of a reply, or a benchmark's answer.

    Returns:
      None where it says neither, both (unless it begins with one of them), or that it cannot be told.
    """
    clause = re.split(r"[,.;!?，。；！？\n]", answer.strip(" .,*()\"'"), maxsplit=1)[0].strip().lower()
    if clause in YES or clause in NO:
        return clause in YES
    words = normal_form(answer).split()
    if not words:
        return None
    if words[0] in YES or words[0] in NO:
        return words[0] in YES
    text = " ".join(words)
    if _UNSURE.search(text):
        return None
    says = set()
    for before, word in zip(["", *words], words, strict=False):
        if word in YES or word in NO:
            says.add((word in YES) != (before == "not"))
    if says:
        return says.pop() if len(says) == 1 else None
    return False if _NEGATED.search(text) else None


def option(answer: str, options: Mapping[str, str]) -> str | None:
    """The option that an answer names by its letter or its text.

    Args:
      answer: :func:`final_answer` of a reply.
      options: text by capital letter.

    Returns:
      Its letter. None where no option is named, or several are.
    """
    letters = "".join(options)
    begins = re.match(rf"\W*(?:option\s+|choice\s+)?([{letters}])(?:\s*[).:,;\]*]+(?!\w)|\s*\n|\W*$)", answer, re.I)
    rest = answer[begins.end() :] if begins else ""
    # "A or B" and "A, B" choose nothing.
    if begins and not re.match(rf"\s*(?:(?:or|and)\s+)?\(?[{letters}](?:\W|$)", rest):
        return begins[1].upper()
    forms = {letter: normal_form(text) for letter, text in options.items()}
    text = normal_form(answer)
    exact = [letter for letter, form in forms.items() if form == text and form]
    if len(exact) == 1:
        return exact[0]
    said = {letter.upper() for letter in re.findall(rf"\b(?:option|choice|answer)\s+([{letters}])\b", answer, re.I)}
    if len(said) == 1:
        return said.pop()
    named, remainder = _named(text, answer, {letter: form for letter, form in forms.items() if form}, options)
    named |= _lettered(remainder, letters)
    return named.pop() if len(named) == 1 else None


def _named(text: str, answer: str, forms: Mapping[str, str], options: Mapping[str, str]) -> tuple[set[str], str]:
    """Options whose text occurs as whole words and not behind "not", long ones first so that "left lung" is not "lung";
    and the answer without those texts, in which a letter can then be looked for.
    """
    named = set()
    for letter in sorted(forms, key=lambda letter: -len(forms[letter])):
        pattern = rf"(?<!\w)((?:not|no|never|without)\s+)?{re.escape(forms[letter])}(?!\w)"
        for found in re.finditer(pattern, text):
            if not found[1]:
                named.add(letter)
        text = re.sub(pattern, " # ", text)
        if letter in named:
            answer = re.sub(rf"(?<!\w){re.escape(options[letter])}(?!\w)", " ", answer, flags=re.IGNORECASE)
    return named, answer


def _lettered(text: str, letters: str) -> set[str]:
    """Capital letters that stand alone or in brackets; "A" and "I" before a small letter are words of the sentence."""
    words = re.findall(rf"(?<![\w.'’-])([{letters}])(?![\w'’-])(?!\.\w)(\s+(?!(?:or|and)\b)[a-z])?", text)
    bracketed = {letter.upper() for letter in re.findall(rf"\(([{letters}])\)", text, re.IGNORECASE)}
    return bracketed | {letter for letter, follows in words if not (follows and letter in "AI")}
