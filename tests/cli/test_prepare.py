"""Tests `prepare`, which writes prompt files from public data sets and generators."""

from __future__ import annotations

import hashlib
import io
import json
import re

import datasets
import pytest
from PIL import Image

from unigrpo.cli.main import main
from unigrpo.data.images import read_image
from unigrpo.data.prompts import load_prompts


def prepared(folder, name, *flags):
    output = folder / f"{name}.jsonl"
    assert main(["prepare", name, "--output", str(output), *flags]) == 0
    record = json.loads((folder / f"{name}.jsonl.source.json").read_text())
    assert record["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    return load_prompts(str(output)), record


def test_a_local_copy_is_filtered_and_counted(tmp_path):
    rows = [
        {"question": "2+3?", "answer": "2+3=5\n#### 5"},
        {"question": "2+3?", "answer": "#### 5"},
        {"question": "3+4?", "answer": "#### many"},
        {"question": "", "answer": "#### 1"},
        {"question": "4+4?", "answer": "#### 8"},
    ]
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "copy" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts, record = prepared(tmp_path, "gsm8k", "--source", str(tmp_path / "copy"))
    assert [(p.text, p.label) for p in prompts] == [("2+3?", "5"), ("4+4?", "8")]
    assert record["rows"] == {
        "kept": 2, "dropped: repeated": 1, "dropped: unusable gold or image": 1, "dropped: no question": 1,
    }  # fmt: skip
    assert (record["source"], record["licence"]) == (str(tmp_path / "copy"), "mit")


def test_embedded_images_are_written_unchanged_next_to_the_file(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), "blue").save(buffer, "JPEG")
    image = {"bytes": buffer.getvalue(), "path": None}
    row = {"image": image, "problem": "<image>How many?", "solution": "<answer>3</answer>"}
    broken = {**row, "image": {"bytes": b"no image", "path": None}, "problem": "Which?"}
    datasets.Dataset.from_list([row, broken]).to_parquet(tmp_path / "a.parquet")
    (prompt,), record = prepared(tmp_path, "clevr", "--source", str(tmp_path / "a.parquet"))
    assert (prompt.task, prompt.text, prompt.label) == ("mmu", "How many?", "3")
    assert (tmp_path / "clevr_images" / "000000.jpeg").read_bytes() == buffer.getvalue()
    assert read_image(prompt.images[0]).size == (3, 2)
    assert record["rows"] == {"kept": 1, "dropped: unusable gold or image": 1}


@pytest.mark.parametrize(
    ("card", "source", "licence", "note"),
    [
        ("license: mit", "copy", "mit", None),
        ("license: cc-by-nc-4.0", "copy", "cc-by-nc-4.0", "openai/gsm8k:main was known under MIT; read the terms of"),
        ("license: [mit, cc0-1.0]", "copy", "mit, cc0-1.0", "was known under MIT"),
        ("license: other\nlicense_name: ours", "copy:main", "ours", "was known under MIT"),
        ("license: cc-by-4.0", "copy/main/train.jsonl", "cc-by-4.0", "was known under MIT"),
        ("size: 1", "copy", "MIT", "that of openai/gsm8k:main; .*copy names none"),
        ("license: [", "copy/main/train.jsonl", "MIT", "names none"),
    ],
)
def test_the_licence_is_that_of_the_source_itself(tmp_path, capsys, card, source, licence, note):
    copy = tmp_path / "copy" / "main"
    copy.mkdir(parents=True)
    (tmp_path / "copy" / "README.md").write_text(f"---\n{card}\n---\n")
    (copy / "train.jsonl").write_text('{"question": "2+3?", "answer": "#### 5"}\n')
    _, record = prepared(tmp_path, "gsm8k", "--source", str(tmp_path / source))
    assert record["licence"] == licence
    assert re.search(note, record["licence_note"]) if note else "licence_note" not in record
    assert f"licence {licence}{'; ' if note else ')'}" in capsys.readouterr().out


def embedded(color, mode="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), color).save(buffer, mode)
    return {"bytes": buffer.getvalue(), "path": None}


def test_images_become_requests_for_descriptions_without_a_gold(tmp_path):
    rows = [{"image": embedded("red"), "caption": ["A red card.", "Red."]}, {"image": None, "caption": []}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    (prompt,), record = prepared(tmp_path, "describe", "--source", str(tmp_path / "a.parquet"))
    assert (prompt.task, prompt.text, prompt.label) == ("mmu", "Please describe this image.", None)
    assert read_image(prompt.images[0]).getpixel((0, 0)) == (255, 0, 0)
    assert record["rows"] == {"kept": 1, "dropped: no single image": 1}


def test_held_out_rows_share_no_image_with_the_others(tmp_path):
    colors = [(10 * number, 0, 0) for number in range(20)]
    rows = [
        {"image": embedded(color), "problem": f"{place} {color[0]}?", "solution": "<answer>3</answer>"}
        for place in range(2)
        for color in colors
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    train, record = prepared(tmp_path / "new", "clevr", "--source", str(tmp_path / "a.parquet"), "--held_out", "5")
    test = load_prompts(str(tmp_path / "new" / "clevr_test.jsonl"))
    assert (len(train), len(test)) == (34, 6) == (record["rows"]["kept"], record["rows"]["held out"])
    seen = [{read_image(prompt.images[0]).getpixel((0, 0)) for prompt in part} for part in (train, test)]
    assert not seen[0] & seen[1] and len(seen[1]) == 3


def test_a_downloaded_copy_of_math_is_read_by_its_last_boxes(tmp_path):
    copy = tmp_path / "MATH"
    (copy / "data").mkdir(parents=True)
    (copy / "README.md").write_text("---\nlicense: [mit]\n---\nA copy.\n")
    solutions = {
        "Find x.": "First \\boxed{1} is wrong. So $x=\\boxed{\\frac{3}{4}}$.",
        "Which set?": "It is $\\boxed{\\{1, 2\\}}$.",
        "Prove it.": "We prove it by induction over n, since the sum is even for all n.",
    }
    rows = [{"problem": p, "level": "Level 5", "type": "Algebra", "solution": s} for p, s in solutions.items()]
    datasets.Dataset.from_list(rows).to_parquet(copy / "data" / "train-00000-of-00001.parquet")
    datasets.Dataset.from_list(rows[:1]).to_parquet(copy / "data" / "test-00000-of-00001.parquet")
    prompts, record = prepared(tmp_path, "math", "--source", str(copy))
    assert [(p.text, p.label) for p in prompts] == [("Find x.", "\\frac{3}{4}"), ("Which set?", "\\{1, 2\\}")]
    assert record["rows"] == {"kept": 2, "dropped: unusable gold or image": 1} and record["licence"] == "mit"
    test, _ = prepared(tmp_path, "math", "--source", str(copy), "--split", "test")
    assert [p.text for p in test] == ["Find x."]


def test_a_downloaded_copy_of_clevr_is_read_with_its_images(tmp_path, caplog):
    copy = tmp_path / "clevr" / "data"
    copy.mkdir(parents=True)
    rows = [
        {
            "image": embedded("red", "JPEG"),
            "problem": "<image> How many cubes are there?",
            "solution": "<answer> 3 </answer>",
        },
        {"image": embedded("blue"), "problem": "Is it metal?", "solution": "<answer>yes</answer>"},
        {"image": embedded("blue"), "problem": "How many?", "solution": "<answer> </answer>"},
        {"image": {"bytes": b"broken", "path": None}, "problem": "How many?", "solution": "<answer>2</answer>"},
    ]
    datasets.Dataset.from_list(rows).to_parquet(copy / "train-00000-of-00001.parquet")
    prompts, record = prepared(tmp_path, "clevr", "--source", str(tmp_path / "clevr"))
    assert [(p.text, p.label) for p in prompts] == [("How many cubes are there?", "3"), ("Is it metal?", "yes")]
    assert [read_image(p.images[0]).size for p in prompts] == [(3, 2), (3, 2)]
    assert record["rows"]["kept"] == 2 and sum(record["rows"].values()) == 4
    broken = f"{tmp_path / 'clevr'}[train][3], column 'image': no image could be read"
    assert f"{broken} (UnidentifiedImageError: cannot identify image); give a PNG" in caplog.text


def test_captions_become_prompts_of_text_to_image(tmp_path):
    (tmp_path / "captions.txt").write_text("a red circle\na red circle\na ship\n")
    prompts, record = prepared(tmp_path, "captions", "--source", str(tmp_path / "captions.txt"))
    assert [(p.task, p.text, p.label) for p in prompts] == [("t2i", "a red circle", None), ("t2i", "a ship", None)]
    assert record["rows"] == {"kept": 2, "dropped: repeated": 1}


def test_puzzles_of_a_file_keep_their_numbers_and_claim_no_licence(tmp_path):
    (tmp_path / "sudoku.csv").write_text("Puzzle,Solution\n1034341221434321,1234341221434321\n")
    prompts, record = prepared(tmp_path, "sudoku", "--source", str(tmp_path / "sudoku.csv"))
    assert prompts[0].label == '{"puzzle": "1034341221434321", "solution": "1234341221434321"}'
    assert record["licence"] == "not stated"


@pytest.mark.parametrize("name", ["countdown", "sudoku"])
def test_generated_puzzles_are_reproducible_and_the_test_split_is_disjoint(tmp_path, name):
    train, record = prepared(tmp_path, name, "--max_rows", "20")
    again, same = prepared(tmp_path, name, "--max_rows", "20")
    assert (train, record) == (again, same) and record["rows"]["kept"] == 20
    test, _ = prepared(tmp_path, name, "--max_rows", "5", "--split", "test")
    assert not {p.label for p in train} & {p.label for p in test}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["captions"], "prepare captions needs --source"),
        (["gsm8k", "--source", "absent.jsonl"], "absent.jsonl: no such file"),
        (["captions", "--source", "empty.json"], "no row was kept|holds no row"),
    ],
)
def test_what_cannot_be_prepared_is_named_in_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.json").write_text("[]")
    assert main(["prepare", *flags, "--output", "out.jsonl"]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out.jsonl").exists()
