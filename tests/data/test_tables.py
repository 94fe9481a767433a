"""Tests that every kind of table gives the same rows, and that their text is checked when it is read."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from datasets import config as datasets_config
from pyarrow import parquet

from unigrpo.data.bad_samples import BadSample
from unigrpo.data.tables import open_table
from unigrpo.data.text import MAX_DEPTH, parse_json

ROWS = [{"question": "1+2=", "answer": "3"}, {"question": "3+4=", "answer": "7"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def rows(path: str | Path, split: str = "train") -> list[dict[str, Any]]:
    table = open_table(str(path), split)
    return [dict(table.row(index)) for index in range(len(table))]


def reason(path: Path, index: int = 0) -> str:
    with pytest.raises(BadSample) as caught:
        open_table(str(path)).row(index)
    assert f"{path.name}:{index + 1}" in str(caught.value), "the file and line are named"
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", LINES),
        ("lines.json", LINES),
        ("list.json", json.dumps(ROWS, indent=1)),
        ("a.csv", "question,answer\n1+2=,3\n3+4=,7\n"),
        ("a.tsv", "question\tanswer\n1+2=\t3\n3+4=\t7\n"),
    ],
)
def test_every_text_format_gives_the_same_rows_also_compressed_and_with_a_byte_order_mark(tmp_path, name, text):
    for mark in ("", "\ufeff"):
        (tmp_path / name).write_text(mark + text, encoding="utf-8")
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((mark + text).encode()))
        assert rows(tmp_path / name) == rows(tmp_path / f"{name}.gz") == ROWS


def test_a_line_of_text_and_a_list_of_texts_are_rows(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff1+2=\r\n\n3+4=\u2028 and more\r\n".encode())
    assert rows(tmp_path / "a.txt") == [{"text": "1+2="}, {"text": "3+4=\u2028 and more"}]
    assert open_table(str(tmp_path / "a.txt")).key(1) == "a.txt:3"
    (tmp_path / "a.json").write_text('["a red circle", 5]')
    assert open_table(str(tmp_path / "a.json")).row(0) == {"text": "a red circle"}
    with pytest.raises(BadSample, match=r"a\.json\[1\]: expected an object, found int"):
        open_table(str(tmp_path / "a.json")).row(1)


def test_an_arrow_file_a_parquet_file_and_a_saved_folder_give_the_same_rows(tmp_path):
    data = datasets.Dataset.from_list(ROWS)
    data.to_parquet(tmp_path / "a.parquet")
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(tmp_path / "two")
    for path in ("a.parquet", "one", "one/data-00000-of-00001.arrow", "two"):
        assert rows(tmp_path / path) == ROWS
    assert rows(tmp_path / "two", "test") == ROWS[1:]
    with pytest.raises(ValueError, match=r"two: no split 'dev'; it has \['test', 'train'\]"):
        open_table(str(tmp_path / "two"), "dev")


def snapshot(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        data = datasets.Dataset.from_list(ROWS if "train" in name else ROWS[1:])
        data.to_parquet(folder / name)
    return folder


def test_a_downloaded_copy_of_a_data_set_is_read_by_its_splits(tmp_path):
    folder = snapshot(tmp_path / "plain", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
    (folder / "README.md").write_text("# A data set\n")
    assert rows(folder) == ROWS and rows(folder, "test") == ROWS[1:]
    with pytest.raises(ValueError, match=r"plain: no split 'validation'; it has \['test', 'train'\]"):
        open_table(str(folder), "validation")


def test_a_configuration_of_a_downloaded_copy_follows_a_colon(tmp_path):
    folder = snapshot(tmp_path / "gsm8k", "main/train-0.parquet", "main/test-0.parquet", "other/train-0.parquet")
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {s}\n    path: {name}/{s}-*\n" for s in splits)
        for name, splits in (("main", ["train", "test"]), ("other", ["train"]))
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert rows(f"{folder}:main", "test") == ROWS[1:] and rows(f"{folder}:other") == ROWS
    with pytest.raises(ValueError, match=r"it has the configurations 'main', 'other'; name one behind a colon, as in"):
        open_table(str(folder))


def test_a_copy_without_a_readme_has_its_configurations_in_folders_of_their_names(tmp_path):
    folder = snapshot(tmp_path / "gsm8k", "main/train-0.parquet", "main/test-0.parquet", "other/train-0.parquet")
    assert rows(f"{folder}:main", "test") == ROWS[1:]
    with pytest.raises(ValueError, match=r"other: no split 'test'; it has \['train'\]"):
        open_table(f"{folder}:other", "test")
    with pytest.raises(ValueError, match="gsm8k: no data set could be found in this folder"):
        open_table(f"{folder}:socratic")


def test_a_table_beside_a_folder_of_images_is_a_data_set(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    (tmp_path / "train.jsonl").write_text(LINES)
    assert rows(tmp_path) == ROWS
    assert open_table(str(tmp_path)).folder == tmp_path, "relative paths of images start there"


def test_classes_have_their_names_and_images_stay_encoded(tmp_path):
    features = datasets.Features(
        {
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "image": datasets.Image(),
            "images": datasets.List(datasets.Image()),
        }
    )
    image = {"bytes": b"PNG", "path": None}
    data = datasets.Dataset.from_dict({"kind": [1, None], "image": [image] * 2, "images": [[image]] * 2}, features)
    data.to_parquet(tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [
        {"kind": "dog", "image": image, "images": [image]}, {"kind": None, "image": image, "images": [image]},
    ]  # fmt: skip


def test_files_of_one_name_in_two_folders_are_distinguished(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text(LINES)
    table = open_table(f"{tmp_path}/*/x.jsonl")
    assert [table.key(index) for index in range(4)] == ["a/x.jsonl:1", "a/x.jsonl:2", "b/x.jsonl:1", "b/x.jsonl:2"]


def test_a_long_field_is_read_and_a_column_named_twice_is_an_error(tmp_path):
    long = "a" * 300_000
    (tmp_path / "a.csv").write_text(f"text\n{long}\n")
    assert rows(tmp_path / "a.csv") == [{"text": long}]
    (tmp_path / "a.csv").write_text("text,text\na,b\n")
    with pytest.raises(ValueError, match="the column 'text' occurs more than once"):
        open_table(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.txt.gz"])
def test_a_compressed_file_that_ends_early_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(LINES.encode())[:-10])
    with pytest.raises(ValueError, match=f"{name}: could not be read"):
        open_table(str(tmp_path / name))


def test_a_file_of_another_kind_says_which_are_read(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.xlsx: expected a name that ends in one of \.jsonl"):
        open_table(str(tmp_path / "a.xlsx"))


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (r'{"text": "cut \ud83d here"}', "lone surrogate"),
        (r'{"text": ["a", {"b": "\udc00"}]}', "lone surrogate"),
        (r'{"\ud83d": 1}', "lone surrogate"),
        (f'{{"text": "a", "x": {nested(MAX_DEPTH)}}}', "too deep"),
        (f'{{"text": "a", "x": {nested(100_000)}}}', "too deep"),
        ('{"text": "a", "text": "b"}', "no JSON"),
        ('{"text": ' + "9" * 5000 + "}", "no JSON"),
        ("[1]", "no JSON object"),
    ],
)
def test_a_line_that_no_tokenizer_or_file_could_take_is_a_bad_sample(tmp_path, line, expected):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    assert reason(tmp_path / "a.jsonl") == expected


def test_surrogate_pairs_and_line_separators_inside_of_lines_are_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00 a\u2028b"}\n', encoding="utf-8")
    assert rows(tmp_path / "a.jsonl") == [{"text": "\U0001f600 a\u2028b"}]


def test_the_most_deeply_nested_json_that_is_read_can_be_written_again():
    deepest = parse_json(nested(MAX_DEPTH - 1), "here")
    assert json.dumps(deepest) == nested(MAX_DEPTH - 1)
    with pytest.raises(BadSample, match=f"here: lists or objects are nested more than {MAX_DEPTH} deep"):
        parse_json(nested(MAX_DEPTH + 1), "here")


def test_parquet_is_read_by_row_groups_and_nothing_is_written(tmp_path, monkeypatch):
    """There are seven rows in groups of two. Reading a row loads only its group, which stays in memory."""
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path, read = tmp_path / "a.parquet", []
    parquet.write_table(pa.table({"text": [f"row {i}" for i in range(7)], "n": range(7)}), path, row_group_size=2)
    own = parquet.ParquetFile.read_row_group
    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", lambda file, i: read.append(i) or own(file, i))
    table = pickle.loads(pickle.dumps(open_table(str(path))))
    assert len(table) == 7
    assert [table.row(i) for i in (6, 2, 3, 6)] == [{"text": f"row {i}", "n": i} for i in (6, 2, 3, 6)]
    assert read == [3, 1]
    assert table.key(6) == "a.parquet[6]"
    assert [one.name for one in tmp_path.iterdir()] == ["a.parquet"]


def test_a_broken_row_group_names_its_rows_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["a" * 99, "b" * 99, "c" * 99]}), path, row_group_size=1, compression="gzip")
    start = parquet.read_metadata(path).row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    table = open_table(str(path))
    assert table.row(2) == {"text": "c" * 99}
    with pytest.raises(BadSample, match=r"a.parquet\[1\]: "):
        table.row(1)
