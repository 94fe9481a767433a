"""Tests tables as sources: every file format and kind, with broken rows."""

import io
import json
from typing import Any

import datasets
import pytest
import torch
from PIL import Image

from unigrpo.config.corpora import ColumnConfig, SourceConfig
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.corpora.stream import KINDS


def opened(path, kind: Any = "text", task: Any = "lm", **options):
    return KINDS[kind](SourceConfig(kind=kind, task=task, path=str(path), **options))


def read(source, index=0, seed=0):
    return source.read(index, torch.Generator().manual_seed(seed))


def reason(source, index):
    with pytest.raises(BadSample) as caught:
        read(source, index)
    return caught.value.reason, str(caught.value)


@pytest.fixture
def image_file(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


def save_rows(path, rows):
    """Saves rows in the format of the suffix of the file; without a suffix, it is a folder of `datasets`."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "folder"])
def test_text_and_chat_come_from_every_format(tmp_path, name):
    chat = [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}]
    save_rows(tmp_path / name, [{"content": f"text {n}", "messages": chat} for n in range(3)])
    texts = opened(tmp_path / name)
    assert [read(texts, index).text for index in range(len(texts))] == ["text 0", "text 1", "text 2"]
    assert read(opened(tmp_path / name, "chat", "lm_chat")).messages == (("user", "2+3?"), ("assistant", "5"))


def test_lines_are_found_by_their_position_and_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('\ufeff{"text": "ä"}\n\n{broken\n{"text": "b"}\r\n["no object"]\n\xff'.encode())
    source = opened(tmp_path / "a.jsonl")
    assert len(source) == 5
    assert (read(source, 0).text, read(source, 2).text) == ("ä", "b")
    assert read(source, 2).key == "a.jsonl:4"
    assert reason(source, 1)[0] == "no JSON" and "a.jsonl:3" in reason(source, 1)[1]
    assert reason(source, 3) == ("no JSON object", "a.jsonl:5: expected a JSON object, found list")


def test_a_line_that_is_no_utf8_says_so(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    assert reason(opened(tmp_path / "a.jsonl"), 1)[0] == "not UTF-8"


def test_the_rows_of_several_files_are_concatenated(tmp_path):
    for name in "ba":
        save_rows(tmp_path / f"{name}.jsonl", [{"text": f"{name}{n}"} for n in range(2)])
    source = opened(tmp_path / "*.jsonl")
    assert [read(source, index).key for index in range(4)] == ["a.jsonl:1", "a.jsonl:2", "b.jsonl:1", "b.jsonl:2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "a.jsonl: holds no row"),
        ("a.jsonl", '{"body": "x"}\n', r"no column one of \['content', 'text'\] in a.jsonl:1 .* found \['body'\]"),
        ("a.jsonl", "no json\n", "a.jsonl:1: not JSON"),
        ("a.json", "[1", "a.json: not JSON"),
        ("a.json", "{", "a.json:1: not JSON"),
        ("a.json", '{"a": 1}', r"no column one of .* in a.json:1 .* found \['a'\]"),
        ("a.csv", "image,question\nx.png,what?\n", r"no column one of .*'text'\] in a.csv:2"),
        ("a.csv", "text\n", "a.csv: holds no row"),
        ("a.csv", 'text\na\n"b\nc\nd\n', "a.csv:3: no CSV from here on"),
        ("a.parquet", "no parquet", "a.parquet: no parquet file could be read"),
    ],
)
def test_a_table_without_usable_rows_is_an_error_at_the_start(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path / name)


def test_a_missing_file_and_a_missing_column_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"a\.csv: no such file"):
        opened(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="no_such_folder: no such file"):
        opened(tmp_path / "no_such_folder")
    save_rows(tmp_path / "a.jsonl", [{"text": "x"}])
    with pytest.raises(ValueError, match="no column 'body'"):
        opened(tmp_path / "a.jsonl", columns=ColumnConfig(text="body"))


def test_a_row_without_text_is_broken(tmp_path):
    save_rows(tmp_path / "a.jsonl", [{"text": "x"}, {"text": " "}, {"text": None}, {}])
    source = opened(tmp_path / "a.jsonl")
    assert [reason(source, index)[0] for index in (1, 2, 3)] == ["missing text"] * 3


def test_a_long_document_gives_a_window_at_a_random_position(tmp_path):
    text = "".join(chr(ord("a") + n % 26) for n in range(100))
    save_rows(tmp_path / "a.jsonl", [{"text": text}, {"text": "short"}])
    source = opened(tmp_path / "a.jsonl", max_characters=10)
    windows = {read(source, 0, seed).text for seed in range(30)}
    assert len(windows) > 10 and all(len(window) == 10 and window in text for window in windows)
    assert read(source, 1).text == "short"


CSV = """image,question,solution
red.png,"What colour,
in one word?",red
red.png,Which?
missing.png,Which?,red
red.png,,red
red.png,Which?,red,blue
"""


def test_questions_come_from_csv_and_broken_rows_say_why(tmp_path, image_file):
    (tmp_path / "a.csv").write_text(CSV)
    source = opened(tmp_path / "a.csv", "vqa", "mmu", instruction="Think. ")
    sample = read(source)
    assert sample.messages == (("user", "Think. What colour,\nin one word?"), ("assistant", "red"))
    assert sample.image is not None and sample.image.size == (8, 8)
    assert sample.key == "a.csv:2"
    found = [reason(source, index) for index in (1, 2, 3, 4)]
    assert [name for name, _ in found] == [
        "wrong number of columns", "broken image", "missing text", "wrong number of columns",
    ]  # fmt: skip
    assert [message.split()[0] for _, message in found] == ["a.csv:4:", "a.csv:5:", "a.csv:6:", "a.csv:7:"]


def test_a_csv_without_the_columns_is_an_error_at_the_start(tmp_path):
    (tmp_path / "a.csv").write_text("image,question\nred.png,Which?\n")
    with pytest.raises(ValueError, match=r"no column one of \['solution', 'answer'\]"):
        opened(tmp_path / "a.csv", "vqa", "mmu")


def turn(who, text):
    return {"from": who, "value": text}


LLAVA = [
    {"image": "red.png", "conversations": [turn("human", "<image>\nWhat?"), turn("gpt", "A square."),
                                           turn("human", "Colour?"), turn("gpt", "Red."), turn("human", "Sure?")]},
    {"conversations": [turn("human", "Hello"), turn("gpt", "Hello!")]},
    {"image": "red.png", "conversations": [turn("human", "What?")]},
    {"image": "red.png", "conversations": [turn("gpt", "What?"), turn("gpt", "What?")]},
    {"image": "red.png", "conversations": [turn("bird", "What?"), turn("gpt", "What?")]},
    {"image": "red.png", "conversations": "What?"},
    {"image": "red.png"},
]  # fmt: skip


def test_llava_conversations_lose_the_image_marker_and_the_turn_without_an_answer(tmp_path, image_file):
    save_rows(tmp_path / "a.json", LLAVA)
    source = opened(tmp_path / "a.json", "conversations", "mmu")
    expected = (("user", "What?"), ("assistant", "A square."), ("user", "Colour?"), ("assistant", "Red."))
    assert read(source).messages == expected
    assert [reason(source, index)[0] for index in range(1, 7)] == [
        "missing image", "no answer", "turns out of order", "unknown role", "no headers", "no messages",
    ]  # fmt: skip
    assert all(f"a.json[{index}]" in reason(source, index)[1] for index in range(1, 7))


def test_a_random_number_of_leading_turns_is_kept(tmp_path, image_file):
    save_rows(tmp_path / "a.json", LLAVA[:1])
    source = opened(tmp_path / "a.json", "conversations", "mmu", random_turns=True)
    assert {len(read(source, 0, seed).messages) for seed in range(20)} == {2, 4}


def test_images_in_parquet_are_read_and_broken_ones_say_so(tmp_path, image_file):
    content = image_file.read_bytes()
    images = [{"bytes": content, "path": None}, {"bytes": b"broken", "path": None}, None]
    rows = datasets.Dataset.from_dict(
        {"image": images, "caption": ["a", "b", "c"]},
        features=datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")}),
    )
    rows.to_parquet(tmp_path / "a.parquet")
    source = opened(tmp_path / "a.parquet", "captions", "t2i")
    sample = read(source)
    assert sample.image is not None and (sample.text, sample.image.getpixel((0, 0))) == ("a", (255, 0, 0))
    assert [reason(source, index)[0] for index in (1, 2)] == ["broken image", "missing image"]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "I;16", "1"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    buffer = io.BytesIO()
    Image.new(mode, (4, 4)).save(buffer, "TIFF")
    (tmp_path / "a.tif").write_bytes(buffer.getvalue())
    save_rows(tmp_path / "a.jsonl", [{"image": "a.tif", "caption": "x"}])
    sample = read(opened(tmp_path / "a.jsonl", "captions", "t2i"))
    assert sample.image is not None and sample.image.mode == "RGB"


def test_thoughts_are_trained_in_text_about_images_and_before_images(tmp_path, image_file):
    rows = [
        {"question": "2+3?", "solution": "2+3=5", "answer": "5", "image": "red.png"},
        {"question": "2+3?", "image": "red.png"},
    ]
    save_rows(tmp_path / "a.jsonl", rows)
    text = read(opened(tmp_path / "a.jsonl", "cot", "lm_chat"))
    assert text.messages == (("user", "2+3?"), ("assistant", "<think>2+3=5</think>5")) and text.image is None
    about = read(opened(tmp_path / "a.jsonl", "cot", "mmu", cot_newlines=True))
    assert about.messages[1][1] == "<think>\n2+3=5\n</think>\n5" and about.image is not None
    drawn = read(opened(tmp_path / "a.jsonl", "cot", "r2i"))
    assert drawn.messages[1][1] == "<think>2+3=5</think>" and drawn.image is not None
    assert reason(opened(tmp_path / "a.jsonl", "cot", "r2i"), 1)[0] == "no thoughts"
