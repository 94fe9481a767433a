"""Tests that the settings in docs/data.md load each public data set with its task, image and gold answer.

The tests write files that have the real columns of each set and other values.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from PIL import Image

from unigrpo.cli.main import main
from unigrpo.config import PromptFileConfig
from unigrpo.data.images import read_image
from unigrpo.data.prompts import load_prompts

Row = dict[str, Any]
Expected = tuple[str, str, str | None, int]
"""Task, start of the text, gold answer and number of images of the first prompt."""


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = {"bytes": png(), "path": None}
EMBEDDED = datasets.Image()


def parquet(path: Path, rows: Sequence[Row], **columns: Any) -> str:
    """Writes a parquet file in which some columns have a feature of `datasets`."""
    data = datasets.Dataset.from_list(list(rows))
    features = datasets.Features({**data.features, **columns})
    datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in rows[0]}, features).to_parquet(path)
    return str(path)


def jsonl(path: Path, rows: Sequence[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def table(path: Path, rows: Sequence[Mapping[str, str]]) -> str:
    """Writes a CSV or TSV file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def snapshot(folder: Path, rows: Sequence[Row], split: str = "train", **columns: Any) -> str:
    """Writes a downloaded copy of a data set of the Hub."""
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    parquet(folder / "data" / f"{split}-00000-of-00001.parquet", rows, **columns)
    return str(folder)


def arc(folder: Path) -> str:
    """Writes two configurations in the folders of the set."""
    for name in ("ARC-Challenge", "ARC-Easy"):
        (folder / name).mkdir(parents=True)
        parquet(folder / name / "train-00000-of-00001.parquet", [ARC])
    return f"{folder}:ARC-Challenge"


def gsm8k(folder: Path) -> str:
    (folder / "main").mkdir(parents=True)
    parquet(folder / "main" / "train-00000-of-00001.parquet", [{"question": "2+3?", "answer": "2+3=5\n#### 5"}])
    configs = "configs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n"
    (folder / "README.md").write_text(f"---\n{configs}---\n")
    return f"{folder}:main"


def geo170k(folder: Path) -> str:
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "1.png").write_bytes(png())
    turns = [{"from": "human", "value": "<image>\nHow long is AB? Choices:\nA: 1\nB: 2"},
             {"from": "gpt", "value": "AB is a radius.\nAnswer:B"}]  # fmt: skip
    (folder / "qa_tuning.json").write_text(json.dumps([{"image": "1.png", "conversations": turns}]))
    return str(folder / "qa_tuning.json")


def virl39k(folder: Path) -> str:
    folder.mkdir()
    row = {"question": "<image>How many?", "answer": "\\boxed{3}", "PassRate_32BTrained": 0.5, "category": "count",
           "source": "x", "qid": "x-1", "image": ["images/1.png"]}  # fmt: skip
    return parquet(folder / "39Krelease.parquet", [row])


def gqa(folder: Path) -> str:
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "n1.png").write_bytes(png())
    row = {"image": "n1.png", "question": "What color is the cup?", "answer": "red", "fullAnswer": "The cup is red."}
    return jsonl(folder / "questions.jsonl", [row])


R1V = {"image": IMAGE, "problem": "How many items?", "solution": "<answer> 3 </answer>"}
MMMU: Row = {
    "id": "validation_Math_1", "question": "<image 1> Which is it?", "options": "['one', 'two']", "explanation": "",
    "image_1": IMAGE, "image_2": None, "img_type": "['Diagrams']", "answer": "B", "topic_difficulty": "Easy",
    "question_type": "multiple-choice", "subfield": "Algebra",
}  # fmt: skip
POPE: Row = {"id": "0", "question_id": "1", "question": "Is there a cup in the image?", "answer": "yes",
             "image_source": "x", "image": IMAGE, "category": "random"}  # fmt: skip
NUMINA: Row = {"source": "amc", "problem": "Find x.\n$\\textbf{(A)}\\ 3\\qquad\\textbf{(B)}\\ 5$",
               "solution": "So it is $\\boxed{\\textbf{(B)}\\ 5}$.",
               "messages": [{"role": "user", "content": "x?"}, {"role": "assistant", "content": "x"}]}  # fmt: skip
SKYWORK: Row = {
    "data_source": "math",
    "prompt": [{"role": "user", "content": "Find x."}],
    "ability": "math",
    "reward_model": {"ground_truth": '["\\\\frac{3}{2}"]', "style": "rule"},
    "extra_info": {"index": 1},
}
SCIENCE = [
    {
        "image": IMAGE,
        "question": "Which is solid?",
        "choices": ["air", "rock"],
        "answer": answer,
        "hint": "",
        "task": "closed choice",
        "grade": "grade2",
        "subject": "natural science",
        "topic": "physics",
        "category": "matter",
        "skill": "classify",
        "lecture": "",
        "solution": "Rock is.",
    }
    for answer in (1, 0)
]
AI2D = [
    {"question": "What is A?", "options": ["leaf", "root", "stem", "seed"], "answer": answer, "image": IMAGE}
    for answer in ("2", "0")
]
CHARTQA: Row = {"image": IMAGE, "query": "How many bars?", "label": ["14"], "human_or_machine": 0}
ARC: Row = {
    "id": "x",
    "question": "Which is solid?",
    "answerKey": "2",
    "choices": {"text": ["air", "rock"], "label": ["1", "2"]},
}
MMBENCH: Row = {
    "index": 1, "question": "Which is solid?", "hint": "See the label.", "answer": "B", "A": "air", "B": "rock",
    "C": "", "D": "", "category": "x", "image": IMAGE, "source": "x", "L2-category": "x", "comment": "",
    "split": "dev",
}  # fmt: skip
SEED: Row = {
    "answer": "A", "choice_a": "air", "choice_b": "rock", "choice_c": "tea", "choice_d": "ink", "data_id": "1",
    "data_type": "image", "question": "Which is it?", "question_id": "1", "question_type_id": 1, "image": [IMAGE],
    "segment": None,
}  # fmt: skip
A_OKVQA: list[Row] = [
    {"image": IMAGE, "question_id": "x", "question": "Which is it?", "choices": ["air", "rock"],
     "correct_choice_idx": number, "direct_answers": "['rock']", "difficult_direct_answer": False, "rationales": ["x"]}
    for number in (1, 0)
]  # fmt: skip
WE_MATH: Row = {"ID": "1", "split": "testmini", "knowledge concept": "x", "question": "What is it ( )?",
                "option": "A. 3 cm; B. 4 cm; C. No correct answer", "answer": "B", "image_path": IMAGE,
                "key": "2steps", "question number": 1}  # fmt: skip
MATHVISTA: list[Row] = [
    {"pid": "1", "question": "How long is it?", "image": "images/1.jpg", "decoded_image": IMAGE, "choices": choices,
     "unit": None, "precision": 1.0, "answer": answer, "question_type": "x", "answer_type": "float",
     "metadata": {"source": "x"}, "query": "Hint: x\nQuestion: How long is it?"}
    for answer, choices in (("1.2", None), ("4", ["3", "4"]))
]  # fmt: skip
MATHVISION: list[Row] = [
    {"id": "1", "question": "Which? <image1>", "options": options, "image": "images/1.jpg", "decoded_image": IMAGE,
     "answer": answer, "solution": None, "level": 1, "subject": "x"}
    for answer, options in (("2", []), ("B", ["3", "4"]))
]  # fmt: skip
MEDQA: Row = {"question": "Which?", "answer": "Nitrogen", "options": {"A": "Air", "B": "Nitrogen"},
              "meta_info": "x", "answer_idx": "B", "metamap_phrases": ["x"]}  # fmt: skip
RACE: Row = {"example_id": "x", "article": "Tom has a cup.", "answer": "B", "question": "Who has it?",
             "options": ["Ann", "Tom"]}  # fmt: skip
SVAMP: Row = {"ID": "x", "Body": "Each pack costs 76 dollars.", "Question": "How much are two?", "Equation": "76 * 2",
              "Answer": "152.0", "Type": "x", "question_concat": "x"}  # fmt: skip
METAMATH: Row = {"type": "x", "query": "2+3?", "original_question": "x", "response": "2+3=5\n#### 5\nThe answer is: 5"}
MME: Row = {"question_id": "count/1.png", "image": IMAGE, "question": "Are there two cups? Please answer yes or no.",
            "answer": "No", "category": "count"}  # fmt: skip
VQAV2: Row = {
    "question_type": "how many", "multiple_choice_answer": "2", "image_id": 1, "answer_type": "number",
    "question_id": 7,
    "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n, answer in enumerate("2223", 1)],
    "question": "How many cups?", "image": IMAGE,
}  # fmt: skip
VERL: Row = {"data_source": "math", "prompt": [{"role": "user", "content": "2+3?"}], "ability": "math",
             "reward_model": {"ground_truth": "5", "style": "rule"},
             "extra_info": {"index": "0", "split": "train"}}  # fmt: skip
DARE_COUNTDOWN: Row = {**VERL, "reward_model": {"ground_truth": {"numbers": [3, 5], "target": 8}, "style": "rule"}}
OPENTHOUGHTS: Row = {
    "system": "Think.",
    "conversations": [
        {"from": "user", "value": "2+3?"},
        {"from": "assistant", "value": "<|begin_of_thought|>add<|end_of_thought|>\n\n<|begin_of_solution|>"
                                       "It is \\boxed{5}.<|end_of_solution|>"},
    ],
}  # fmt: skip
GENEVAL: Row = {"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "two dogs"}
JOURNEYDB: Row = {"img_path": "./000/a.jpg", "prompt": "a ship at dawn", "Task2": {"Caption": "A ship."}}

SETS: dict[str, tuple[Callable[[Path], str], Expected]] = {
    "GSM8K": (gsm8k, ("text", "2+3?", "5", 0)),
    "MATH": (
        lambda f: snapshot(f, [{"problem": "2+3?", "level": "Level 1", "type": "Algebra", "solution": "\\boxed{5}"}]),
        ("text", "2+3?", "5", 0),
    ),
    "MATH-500": (
        lambda f: jsonl(f, [{"problem": "2+3?", "solution": "\\boxed{5}", "answer": "5", "subject": "Algebra",
                             "level": 2, "unique_id": "test/1.json"}]),
        ("text", "2+3?", "5", 0),
    ),
    "Geo170K": (geo170k, ("mmu", "How long is AB?", "B", 1)),
    "GEOQA_R1V_Train_8K": (lambda f: snapshot(f, [R1V], image=EMBEDDED), ("mmu", "How many items?", "3", 1)),
    "CLEVR-CoGenT": (lambda f: snapshot(f, [R1V], image=EMBEDDED), ("mmu", "How many items?", "3", 1)),
    "geometry3k": (
        lambda f: snapshot(f, [{"images": [IMAGE], "problem": "<image>Find x.", "answer": "3 \\sqrt { 2 }"}],
                           images=datasets.List(EMBEDDED)),
        ("mmu", "Find x.", "3 \\sqrt { 2 }", 1),
    ),
    "geoqa_plus": (
        lambda f: snapshot(f, [{"images": [IMAGE], "problem": "<image>Find x. A. 1 B. 2", "answer": "A"}],
                           images=datasets.List(EMBEDDED)),
        ("mmu", "Find x. A. 1", "A", 1),
    ),
    "POPE": (lambda f: snapshot(f, [POPE], "test", image=EMBEDDED), ("mmu", "Is there a cup", "yes", 1)),
    "NuminaMath-CoT": (lambda f: snapshot(f, [NUMINA]), ("text", "Find x.", "B", 0)),
    "DeepScaleR": (lambda f: snapshot(f, [{"problem": "2x=6?", "answer": "3", "solution": "x=3"}]),
                   ("text", "2x=6?", "3", 0)),
    "Skywork-OR1": (lambda f: jsonl(f, [SKYWORK]), ("text", "Find x.", "\\frac{3}{2}", 0)),
    "ARC": (lambda f: arc(f), ("text", "Which is solid?\nA. air\nB. rock", "B", 0)),
    "ScienceQA": (lambda f: snapshot(f, SCIENCE, image=EMBEDDED), ("mmu", "Which is solid?\nA. air", "B", 1)),
    "AI2D": (lambda f: snapshot(f, AI2D, "test", image=EMBEDDED), ("mmu", "What is A?\nA. leaf", "C", 1)),
    "MathVista": (lambda f: snapshot(f, MATHVISTA, "testmini", decoded_image=EMBEDDED),
                  ("mmu", "How long is it?", "1.2", 1)),
    "MathVision": (lambda f: snapshot(f, MATHVISION, "test", decoded_image=EMBEDDED), ("mmu", "Which?", "2", 1)),
    "We-Math": (lambda f: snapshot(f, [WE_MATH], "testmini", image_path=EMBEDDED),
                ("mmu", "What is it ( )?\nA. 3 cm\nB. 4 cm\nC. No correct answer", "B", 1)),
    "MMBench": (lambda f: snapshot(f, [MMBENCH], "dev", image=EMBEDDED),
                ("mmu", "See the label.\nWhich is solid?\nA. air\nB. rock", "B", 1)),
    "SEED-Bench": (lambda f: snapshot(f, [SEED], "test", image=datasets.List(EMBEDDED)),
                   ("mmu", "Which is it?\nA. air\nB. rock\nC. tea\nD. ink", "A", 1)),
    "A-OKVQA": (lambda f: snapshot(f, A_OKVQA, image=EMBEDDED), ("mmu", "Which is it?\nA. air\nB. rock", "B", 1)),
    "AQuA-RAT": (
        lambda f: snapshot(f, [{"question": "2+3?", "options": ["A)4", "B)5"], "rationale": "x", "correct": "B"}]),
        ("text", "2+3?\nA)4\nB)5", "B", 0),
    ),
    "MathQA": (
        lambda f: jsonl(f, [{"Problem": "2+3?", "Rationale": "x", "options": "a ) 4 , b ) 5", "correct": "b"}]),
        ("text", "2+3?\nA. 4\nB. 5", "B", 0),
    ),
    "MedQA": (lambda f: snapshot(f, [MEDQA]), ("text", "Which?\nA. Air\nB. Nitrogen", "B", 0)),
    "RACE": (lambda f: snapshot(f, [RACE]), ("text", "Tom has a cup.\nWho has it?\nA. Ann\nB. Tom", "B", 0)),
    "SVAMP": (lambda f: snapshot(f, [SVAMP]),
              ("text", "Each pack costs 76 dollars.\nHow much are two?", "152.0", 0)),
    "MetaMathQA": (lambda f: snapshot(f, [METAMATH]), ("text", "2+3?", "5", 0)),
    "ChartQA": (lambda f: snapshot(f, [CHARTQA], image=EMBEDDED), ("mmu", "How many bars?", "14", 1)),
    "MME": (lambda f: snapshot(f, [MME], "test", image=EMBEDDED), ("mmu", "Are there two cups", "No", 1)),
    "VQAv2": (lambda f: snapshot(f, [VQAV2], "validation", image=EMBEDDED), ("mmu", "How many cups?", "2", 1)),
    "GQA": (gqa, ("mmu", "What color is the cup?", "red", 1)),
    "MMMU": (
        lambda f: snapshot(f, [MMMU], "validation", image_1=EMBEDDED, image_2=EMBEDDED),
        ("mmu", "Which is it?\nA. one\nB. two", "B", 1),
    ),
    "ViRL39K": (virl39k, ("mmu", "How many?", "3", 1)),
    "DAPO-Math-17k": (lambda f: snapshot(f, [VERL]), ("text", "2+3?", "5", 0)),
    "DARE mathematics": (lambda f: parquet(f, [VERL]), ("text", "2+3?", "5", 0)),
    "DARE Countdown": (
        lambda f: parquet(f, [DARE_COUNTDOWN]),
        ("text", "2+3?", '{"numbers": [3, 5], "target": 8}', 0),
    ),
    "OpenRLHF prompt-collection": (
        lambda f: snapshot(f, [{"dataset": "x", "context_messages": VERL["prompt"], "id": "1"}]),
        ("text", "2+3?", None, 0),
    ),
    "OpenThoughts-114k": (lambda f: snapshot(f, [OPENTHOUGHTS]), ("text", "2+3?", "5", 0)),
    "Countdown-Tasks-3to4": (
        lambda f: snapshot(f, [{"target": 8, "nums": [3, 5, 7]}]),
        ("text", "Reach 8 by a calculation with the numbers 3, 5 and 7.", '{"numbers": [3, 5, 7], "target": 8}', 0),
    ),
    "d1 Sudoku": (
        lambda f: table(f, [{"Puzzle": "1000034004002000", "Solution": "1234" * 4}]),
        ("text", "Solve this 4x4 Sudoku", '{"puzzle": "1000034004002000", "solution": "1234123412341234"}', 0),
    ),
    "GenEval": (lambda f: jsonl(f, [GENEVAL]), ("t2i", "two dogs", None, 0)),
    "DPG-Bench": (lambda f: jsonl(f, [{"item_id": "1", "prompt": "two dogs"}]), ("t2i", "two dogs", None, 0)),
    "HPSv2": (lambda f: jsonl(f, [{"prompt": "two dogs", "tag": "anime"}]), ("t2i", "two dogs", None, 0)),
    "HPDv3": (
        lambda f: jsonl(f, [{"caption": "two dogs", "category": "x", "image_path": "images/a.jpg"}]),
        ("t2i", "two dogs", None, 0),
    ),
    "ImageReward benchmark": (
        lambda f: str(f) if f.write_text(json.dumps([{"id": "1", "prompt": "two dogs"}])) else "",
        ("t2i", "two dogs", None, 0),
    ),
    "MMaDA text2image_prompts": (
        lambda f: str(f) if f.write_text("two dogs\na ship\n") else "", ("t2i", "two dogs", None, 0),
    ),
    "PartiPrompts": (
        lambda f: table(f, [{"Prompt": 'a sign that says "hello"', "Category": "x", "Challenge": "y", "Note": ""}]),
        ("t2i", 'a sign that says "hello"', None, 0),
    ),
    "JourneyDB": (lambda f: jsonl(f, [JOURNEYDB]), ("t2i", "a ship at dawn", None, 0)),
    "text-to-image-2M": (lambda f: jsonl(f, [{"prompt": "a ship at dawn"}]), ("t2i", "a ship at dawn", None, 0)),
}  # fmt: skip
"""Functions that write each set to a path, and the expected first prompt, by the name of the set."""
ENDING = {
    "MATH-500": ".jsonl", "Skywork-OR1": ".jsonl", "DARE mathematics": ".parquet", "DARE Countdown": ".parquet",
    "d1 Sudoku": ".csv", "MathQA": ".jsonl",
    "GenEval": ".jsonl", "DPG-Bench": ".jsonl", "HPSv2": ".jsonl", "HPDv3": ".jsonl",
    "ImageReward benchmark": ".json", "MMaDA text2image_prompts": ".txt", "PartiPrompts": ".tsv",
    "JourneyDB": ".jsonl", "text-to-image-2M": ".jsonl",
}  # fmt: skip
"""Suffixes of the sets that are one file; the others are folders."""

GUIDE = Path(__file__).parents[2] / "docs" / "data.md"
ROW = re.compile(r"^\| (?P<name>[^|]+) \| `(?P<line>\{.*?\})` \|", re.MULTILINE)


def documented() -> dict[str, PromptFileConfig]:
    """Returns the settings of each set in the table of the guide."""
    section = GUIDE.read_text().partition("## Public data sets")[2].partition("\n## ")[0]
    return {row["name"]: PromptFileConfig(**yaml.safe_load(row["line"])) for row in ROW.finditer(section)}


def test_the_guide_lists_the_sets_that_are_tested():
    assert sorted(documented()) == sorted(SETS)


@pytest.mark.parametrize("name", SETS)
def test_the_settings_of_the_guide_load_a_set_with_its_real_columns(tmp_path, name):
    write, (task, text, gold, num_images) = SETS[name]
    path = write(tmp_path / f"set{ENDING.get(name, '')}")
    settings = documented()[name]
    folder = str(tmp_path / "set" / "images") if settings.image_folder else ""
    (first, *_) = load_prompts((replace(settings, path=path, image_folder=folder),))
    assert (first.task, first.label, len(first.images)) == (task, gold, num_images)
    assert first.text.startswith(text) and "<image" not in first.text
    if num_images and name != "ViRL39K":  # the images of ViRL39K are in an archive next to the table
        assert read_image(first.images[0]).size == (6, 4)


def test_the_command_shows_prompts_as_the_policy_sees_them(tmp_path, tiny_unified_folder, capsys):
    path = SETS["GEOQA_R1V_Train_8K"][0](tmp_path / "geo")
    assert main(["data", path, "--instruction", "Think. ", "--images", str(tmp_path / "seen"), "--resolution", "8",
                 "--model", str(tiny_unified_folder)]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    header = "<|start_header_id|>user<|end_header_id|>\n"
    assert "task:   mmu\n" in shown and f"{header}Think. How many items?<|eot_id|>" in shown
    assert "gold:   3\n" in shown and str(tmp_path / "seen" / "00000.png") in shown
    assert read_image(tmp_path / "seen" / "00000.png").size == (8, 8)


def test_the_command_names_what_cannot_be_read(tmp_path, capsys):
    assert main(["data", str(tmp_path / "absent.jsonl")]) == 2
    assert "absent.jsonl: no such file" in capsys.readouterr().err
