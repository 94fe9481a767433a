"""Tests the checks of types in the JSON files of this project, and their errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pytest

from unigrpo import CheckpointError, ConfigError
from unigrpo.config.typed_files import (
    WrongContent,
    build,
    checked,
    read_json,
    read_json_lines,
    read_lines,
    replace_text,
)


class Step(TypedDict):
    step: int


class Row(Step, total=False):
    text: str
    parts: dict[str, float | None]
    kinds: list[Literal["a", "b"]]


@dataclass
class Settings:
    size: int
    name: str = ""


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"step": 1, "other": [1]}, Row),
        ({"step": 0, "text": "\U0001f600", "parts": {"r": None, "s": 1, "t": 0.5}, "kinds": ["a", "b"]}, Row),
        ({"step": 3, "loss": float("nan")}, Annotated[dict[str, float], Step]),
        (3, float),
        (None, str | None),
        ([{"step": 1}], list[Row]),
        ({"a": object()}, dict[str, Any]),
        (True, bool),
    ],
)
def test_a_value_of_its_type_is_returned(value, kind):
    assert checked(value, kind) is value


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ([1], Row, r"found \[1\], expected an object"),
        ({"text": ""}, Row, "'step' is missing"),
        ({"step": True}, Row, "step is True, expected an integer"),
        ({"step": 1.0}, Row, r"step is 1\.0, expected an integer"),
        ({"step": 10**30}, Row, "step is 1000.*, expected an integer"),
        ({"step": 1, "text": None}, Row, "text is None, expected a text"),
        ({"step": 1, "text": "\ud83d"}, Row, r"text is '\\ud83d', expected a text"),
        ({"step": 1, "parts": {"r": "3"}}, Row, r"parts\.r is '3', expected a number or null"),
        ({"step": 1, "kinds": ["a", "c"]}, Row, r"kinds\.1 is 'c', expected one of 'a', 'b'"),
        ({"step": 1, "loss": False}, Annotated[dict[str, float], Step], "loss is False, expected a number"),
        ({"loss": 1.0}, Annotated[dict[str, float], Step], "'step' is missing"),
        ([[0]] * 10**5, list[str], r"0 is \[0\], expected a text"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_position(value, kind, message):
    with pytest.raises(WrongContent, match=f"^{message}$"):
        checked(value, kind)


def test_a_dataclass_is_made_only_of_values_of_the_right_types():
    assert build(Settings, {"size": 3}) == Settings(3)
    for values, message in (
        ({"size": "3"}, "size is '3', expected an integer"),
        ({"name": "a"}, "missing 1 required .* 'size'"),
        ({"size": 3, "length": 4}, "'length' is not known"),
    ):
        with pytest.raises(WrongContent, match=message):
            build(Settings, values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON"),
        (b"\xff", "is no text"),
        (b"[" * 100_000, "is no JSON"),
        (b"9" * 5000, "is no JSON"),
        (b"[]", r"found \[\], expected an object"),
    ],
)
def test_a_file_of_another_content_is_an_error_of_one_line(tmp_path: Path, content: bytes, message: str):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^{file}: {message}.*; do this$") as error:
        read_json(file, Row, CheckpointError, "do this")
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"b\.json: cannot be read \(No such file"):
        read_json(tmp_path / "b.json", Row, ConfigError, "do this")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        read_json(tmp_path, Row, ConfigError, "do this")


def test_lines_are_read_up_to_one_that_was_cut_off(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    assert read_json_lines(file, Row, ConfigError, "x") == []
    file.write_text('{"step": 1, "text": "a\u2028b"}\n{"step": 2}\n{"step": 3', encoding="utf-8")
    assert [row["step"] for row in read_json_lines(file, Row, ConfigError, "x")] == [1, 2]
    assert read_lines(file, Row, ConfigError, "x")[1] == ('{"step": 2}', {"step": 2})
    for line in ("[1]", "3", '"step"', '{"step": 2', ""):
        file.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
        with pytest.raises(ConfigError, match=rf"^{file}:2: .*; restore it$"):
            read_json_lines(file, Row, ConfigError, "restore it")


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path: Path, monkeypatch):
    file = tmp_path / "a.json"
    replace_text(file, json.dumps("ü"))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        replace_text(file, "2")
    assert json.loads(file.read_text("utf-8")) == "ü"
