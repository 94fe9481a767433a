"""Tests the command that converts and filters questions with solutions."""

import json

import pytest

from unigrpo.cli.convert_cot import KEPT, NO_GRADE, UNCHECKED, WRONG, convert_file, run
from unigrpo.config.corpora import SourceConfig
from unigrpo.data.corpora.stream import CorpusStream

ROWS = [
    {"question": "48/2?", "answer": "48/2 = <<48/2=24>>24\n#### 24", "id": 7},
    {"question": "48/2?", "solution": "It is \\boxed{24}.", "answer": "24.0"},
    {"question": "48/2?", "solution": "It is \\boxed{25}.", "answer": "24"},
    {"question": "48/2?", "solution": "half of 48", "answer": "24"},
    {"question": "48/2?", "solution": "half of 48"},
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "broken\n")
    return path


def test_every_row_is_kept_or_counted_as_dropped(rows, tmp_path, caplog):
    counts = convert_file(str(rows), tmp_path / "out.jsonl")
    assert counts == {KEPT: 2, UNCHECKED: 1, WRONG: 1, "dropped: no answer": 1, "dropped: no JSON": 1}
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written[0] == {"question": "48/2?", "thinking": "48/2 = 24", "answer": "24", "gold": "24", "id": 7}
    assert [row["answer"] for row in written] == ["24", "24", "24"]
    assert all(f"in.jsonl:{line}" in caplog.text for line in (3, 5, 6))


def test_the_output_is_a_source(rows, tmp_path):
    convert_file(str(rows), tmp_path / "out.jsonl")
    stream = CorpusStream({"a": SourceConfig(kind="cot", task="lm_chat", path=str(tmp_path / "out.jsonl"))}, 1)
    answers = {stream.sample(position).messages[1][1] for position in range(3)}
    assert answers == {
        "<think>48/2 = 24</think>24", "<think>It is \\boxed{24}.</think>24", "<think>half of 48</think>24",
    }  # fmt: skip
    assert not stream.counts


def test_a_gold_that_cannot_be_graded_is_counted(rows, tmp_path):
    path = tmp_path / "gold.jsonl"
    good = {"question": "48/2?", "solution": "\\boxed{24}", "answer": "24"}
    path.write_text(f"{json.dumps(good)}\n{json.dumps(good | {'answer': 'many'})}\n")
    assert convert_file(str(path), tmp_path / "out.jsonl", kind="gsm8k") == {KEPT: 1, NO_GRADE: 1}


def test_thoughts_before_images_need_no_answer(tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"prompt": "flag of Japan", "thinking": "a red disc", "image": "a.png"}) + "\n")
    assert run(["--input", str(path), "--output", str(tmp_path / "out.jsonl"), "--task", "r2i"]) == 0
    assert "1  kept\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.jsonl").read_text())["image"] == "a.png"


def test_no_file_is_written_if_no_row_is_kept(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(ROWS[4]) + "\n")
    with pytest.raises(ValueError, match=r"no row was kept: \{'dropped: no answer': 1\}"):
        convert_file(str(path), tmp_path / "out.jsonl")
    assert [found.name for found in tmp_path.iterdir()] == ["in.jsonl"]


def test_an_output_path_that_cannot_be_written_is_named(rows, tmp_path):
    with pytest.raises(ValueError, match=r"--output .*: expected a file name"):
        convert_file(str(rows), tmp_path / "missing" / "out.jsonl")
