"""Protocols: which questions, in which words, scored by what. Words are written out as upstream's code makes them."""

from __future__ import annotations

import pytest

from medvista_jax.data.benchmarks import BadFile
from medvista_jax.evaluation.protocols import PROTOCOLS, Selection, base, fixed, protocol_of
from medvista_jax.evaluation.protocols.__main__ import main
from medvista_jax.evaluation.protocols.either_or import is_yes_no, letter_of, names_options, options_of
from tests.evaluation import miniatures

THINK = (
    "You will solve a problem/request. You should provide your thoughts within <think> </think> tags before providing "
    "the answer.\\nWrite your final answer within <answer> </answer> tags.\n\nQuestion: "
)
DIRECTLY = "Answer with the option's letter from the given choices directly."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return miniatures.prepared(tmp_path_factory.mktemp("sets"))


def cases(folder, protocol, name):
    return list(Selection(protocol_of(protocol).rule(name), folder, miniature=True))


def test_counts_are_those_of_the_reference():
    medvlthinker = {name: rule.count for name, rule in PROTOCOLS["medvlthinker"].sets.items()}
    assert medvlthinker == {
        "vqa_rad": 272,
        "slake": 416,
        "path_vqa": 3362,
        "pmc_vqa": 2000,
        "mmmu_medical": 170,
        "medxpertqa_mm": 2000,
    }
    medevalkit = {name: rule.count for name, rule in PROTOCOLS["medevalkit"].sets.items() if not rule.about}
    assert medevalkit == {
        "vqa_rad": 451,
        "slake": 2094,
        "path_vqa": 6719,
        "pmc_vqa": 2000,
        "mmmu_medical": 150,
        "medxpertqa_mm": 2000,
    }


def test_closed_questions_of_medvlthinker(folder):
    found = cases(folder, "medvlthinker", "vqa_rad")
    assert [case.item.question for case in found] == [question for question, _ in miniatures.VQA_RAD[:3]]
    assert found[0].ask.text == THINK + "Is there a pneumothorax?\n\nOptions:\n\nA. Yes\n\nB. No"
    assert found[1].ask.text == THINK + "is the lesion on the left or right?\n\nOptions:\n\nA. left\n\nB. right"
    assert [case.answer for case in found] == ["A", "B", "B"]
    english = cases(folder, "medvlthinker", "slake")
    assert [case.ask.id for case in english] == ["1", "2"]
    assert english[1].ask.text.endswith("\n\nOptions:\n\nA. lung\n\nB. liver\n\nC. heart") and english[1].answer == "B"
    (pathology,) = cases(folder, "medvlthinker", "path_vqa")
    assert pathology.answer == "B"


def test_multiple_choice_of_medvlthinker(folder):
    (pmc,) = cases(folder, "medvlthinker", "pmc_vqa")
    assert pmc.ask.text == THINK + "Which modality?\n\nOptions:\n\nA. CT\n\nB. MRI\n\nC. PET\n\nD. X-ray"
    two, dev = cases(folder, "medvlthinker", "mmmu_medical")
    assert two.ask.text == THINK + "Comparewith.\n\nOptions:\n\nA. Fracture\n\nB. Paget's disease"  # upstream's re.sub
    assert (len(two.ask.images), dev.ask.id) == (2, "dev_Pharmacy_1")
    (expert,) = cases(folder, "medvlthinker", "medxpertqa_mm")
    assert expert.ask.text == THINK + "Which artery?\n\nOptions:\n\nA. Left\n\nB. Right" and len(expert.ask.images) == 2


def test_words_of_medevalkit(folder):
    rad = [case.ask.text for case in cases(folder, "medevalkit", "vqa_rad")]
    assert rad[0] == "Is there a pneumothorax?\nPlease output 'yes' or 'no'(no extra output)."
    assert rad[1] == "is the lesion on the left or right?\nPlease answer the question concisely."
    slake = [case.ask.text for case in cases(folder, "medevalkit", "slake")]
    assert slake[1] == "Which is the biggest, lung,liver or heart?\nAnswer the question using a single word or phrase."
    assert slake[2:] == [
        "What modality is used to take this image?\nPlease answer the question concisely.",
        "图片中包含肺吗?\n请用一个单词或者短语回答该问题。",
        "图片中最大的器官是?\n请简要回答该问题。",
    ]
    for name in ("pmc_vqa", "pmc_vqa_2"):
        (pmc,) = cases(folder, "medevalkit", name)
        assert pmc.ask.text == f"\nQuestion: Which modality?\nOptions: \nA:CT\nB:MRI\nC:PET\nD:X-ray\n{DIRECTLY}"
    (expert,) = cases(folder, "medevalkit", "medxpertqa_mm")
    question = "Which artery?\nAnswer Choices: (A) Left (B) Right"
    assert expert.ask.text == f"\nQuestion: {question}\nOptions: \nA. Left\nB. Right\n{DIRECTLY}"
    two, opened = cases(folder, "medevalkit", "mmmu_medical")  # validation only
    listed = "(A) Fracture\n(B) Paget's disease\n"
    assert two.ask.text == f"\nCompare <image 1> with <image 2>.\n\n{listed}\n\n        {DIRECTLY}"
    assert opened.ask.text == "\nHow many? <image 1>\n\n        Answer the question using a single word or phrase."
    assert len(two.ask.images) == 1 and len(two.item.images) == 2


@pytest.mark.parametrize(
    ("protocol", "name", "number", "reply", "right", "strict"),
    [
        ("medvlthinker", "vqa_rad", 0, "<think>x</think><answer>Yes</answer>", True, True),
        ("medvlthinker", "vqa_rad", 0, "<answer>A. Yes</answer>", True, True),
        ("medvlthinker", "vqa_rad", 0, "<answer>(A)</answer>", True, False),
        ("medvlthinker", "vqa_rad", 1, "<answer>B</answer>", True, True),
        ("medvlthinker", "vqa_rad", 1, "<answer>left</answer>", False, False),
        ("medvlthinker", "mmmu_medical", 0, "<answer>B</answer>", True, True),
        ("medevalkit", "vqa_rad", 0, "Yes, there is a nodule", True, False),
        ("medevalkit", "vqa_rad", 2, "unknown", False, True),
        ("medevalkit", "vqa_rad", 3, "free air", True, True),
        ("medevalkit", "slake", 1, "liver", True, True),
        ("medevalkit", "slake", 3, "是", True, True),
        ("medevalkit", "pmc_vqa", 0, "B", True, True),
        ("medevalkit", "medxpertqa_mm", 0, "<answer>B</answer>", True, True),
        ("medevalkit", "mmmu_medical", 0, "The answer is (B)", True, True),
        ("medevalkit", "mmmu_medical", 1, "17.0", True, True),
        ("medevalkit", "mmmu_medical", 1, "so it is 17", False, True),
    ],
)
def test_both_scorers(folder, protocol, name, number, reply, right, strict):
    case = cases(folder, protocol, name)[number]
    rule = protocol_of(protocol).rule(name)
    assert (fixed(case, reply).correct, rule.graded(case, reply).right) == (right, strict)


def test_where_upstream_fails_or_draws_the_reply_is_wrong(folder):
    rule = protocol_of("medevalkit").rule("vqa_rad")
    failed = rule.graded(cases(folder, "medevalkit", "vqa_rad")[3], "")
    assert not failed.right and failed.fault == "ValueError: Hypothesis is empty."
    rule = protocol_of("medevalkit").rule("mmmu_medical")
    drawn = rule.graded(cases(folder, "medevalkit", "mmmu_medical")[0], "I do not know")
    assert not drawn.right and drawn.fault == "random"


EITHER_OR = """
Are there multiple or just 1 metastatic focus?|one
Is the colon more prominent on the patient's right or left side?|Left
Is this supratentorial or infratentorial?|supratentorial
Is the gastric bubble shown on the left or right side of the patient?|Right side
Are pleural opacities located on the left, right, or both sides of the lung?|Both
Is this a T1 weighted, T2 weighted, or FLAIR image?|FLAIR
Is there hypoinflation or hyperinflation of the lung|Hyperinflation
Was a CT or MRI used to take the above image?|MRI
Which is the biggest in this image, spleen,lung, or liver?|Liver
Where is the heart in this image,left,top or upper left?|Top
Which plane is the image scanned, transverse plane or coronal plane?|Coronal Plane
Which type of modality is shown about this image, MRI, CT or X-Ray?|CT
Is this a T1 weighted or T2 weighted MRI image?|T2
""".strip().splitlines()
"""Closed questions of VQA-RAD and SLAKE."""


def test_options_that_a_question_names():
    for question, answer in (line.split("|") for line in EITHER_OR):
        options = options_of(question.lower(), answer.lower())
        assert options is not None and len(options) in (2, 3), question
        assert options[letter_of(answer, options)].lower() == answer.lower()
        assert names_options(question)
    # The examples of upstream's instruction.
    assert list(options_of("Which organ is abnormal, heart or lung?", "heart").values()) == ["heart", "lung"]
    assert list(options_of("does it show esophagus, herpes, ulcers?", "no").values()) == ["Yes", "No"]
    # An answer that the question does not name: SLAKE has one.
    assert list(options_of("Which is bigger in this image, kidney or spleen?", "Liver").values())[-1] == "Liver"
    assert options_of("What colour is it?", "red") is None
    assert not names_options("Which organ is shown?") and not names_options("Describe the major fissure")
    assert is_yes_no(" No ") and not is_yes_no("no finding")


def test_a_wrong_count_is_refused_unless_it_is_a_miniature(folder, monkeypatch):
    rule = protocol_of("medvlthinker").rule("vqa_rad")
    assert Selection(rule, folder, miniature=True).size == "3 of 272"
    with pytest.raises(BadFile, match="has not been prepared"):
        Selection(rule, folder)
    whole = base.Questions
    monkeypatch.setattr(base, "Questions", lambda name, split, folder, subset: whole(name, split, folder, True))
    with pytest.raises(BadFile, match="3 questions are closed.*, not 272; .* --subset"):
        Selection(rule, folder)


def test_the_list(capsys):
    assert main(["--list"]) == 0
    text = capsys.readouterr().out
    for part in (
        "protocol medvlthinker: ",
        "vqa_rad               272",
        "pmc_vqa_2     about 33000",
        "medevalkit.slake",
    ):
        assert part in text
    with pytest.raises(KeyError, match="no protocol 'medvl'; there are medvlthinker, medevalkit"):
        protocol_of("medvl")
    with pytest.raises(KeyError, match="has no set 'pmc_vqa_2'"):
        protocol_of("medvlthinker").rule("pmc_vqa_2")
