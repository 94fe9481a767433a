"""Tests that all sources of text read and refuse the same texts, and that none reads a file without an end."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from unigrpo.config.corpora import CaptionConfig, LayoutConfig, SourceConfig
from unigrpo.data.bad_samples import BadRows, BadSample
from unigrpo.data.chat import special_ids
from unigrpo.data.corpora.captions import read_questions
from unigrpo.data.corpora.rows import RowEncoder
from unigrpo.data.corpora.sample import CorpusSample
from unigrpo.data.corpora.stream import KINDS
from unigrpo.data.images import read_image
from unigrpo.data.prompting import check_prompt_text
from unigrpo.data.prompts import load_prompts
from unigrpo.data.tables import open_table
from unigrpo.data.text import MAX_DEPTH
from unigrpo.models.mmada import MMadaConfig
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt

BOM = "\ufeff"
DEEP = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)
DEEP_OBJECTS = '{"a":' * (MAX_DEPTH + 1) + "0" + "}" * (MAX_DEPTH + 1)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(buffer, "PNG")
    return buffer.getvalue()


def corpus(path: Path, kind: Any, task: Any, **options: Any) -> CorpusSample:
    source = KINDS[kind](SourceConfig(kind=kind, task=task, path=str(path), **options))
    return source.read(0, torch.Generator().manual_seed(0))


def prompt_of(path: Path) -> str:
    bad = BadRows()
    (prompt,) = load_prompts(str(path), bad=bad)
    return prompt.text


def jsonl(folder: Path, text: str, more: str) -> str:
    (folder / "a.jsonl").write_bytes(f'{BOM}{{"prompt": {text}, "label": "1", "more": {more}}}\n'.encode())
    return prompt_of(folder / "a.jsonl")


def packed(folder: Path, text: str, more: str) -> str:
    content = f'{BOM}{{"prompt": {text}, "label": "1", "more": {more}}}\n'.encode()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(content))
    return prompt_of(folder / "a.jsonl.gz")


def json_list(folder: Path, text: str, more: str) -> str:
    (folder / "a.json").write_bytes(f'{BOM}[{{"prompt": {text}, "label": "1", "more": {more}}}]'.encode())
    return prompt_of(folder / "a.json")


def chat_prompt(folder: Path, text: str, more: str) -> str:
    row = f'{BOM}{{"messages": [{{"role": "user", "content": {text}}}], "label": "1", "more": {more}}}\n'
    (folder / "a.jsonl").write_bytes(row.encode())
    return prompt_of(folder / "a.jsonl")


def document(folder: Path, text: str, more: str) -> str:
    (folder / "a.jsonl").write_bytes(f'{BOM}{{"text": {text}, "more": {more}}}\n'.encode())
    return corpus(folder / "a.jsonl", "text", "lm").text


def conversation(folder: Path, text: str, more: str) -> str:
    turns = f'[{{"role": "user", "content": {text}}}, {{"role": "assistant", "content": "b"}}]'
    (folder / "a.jsonl").write_bytes(f'{BOM}{{"messages": {turns}, "more": {more}}}\n'.encode())
    return corpus(folder / "a.jsonl", "chat", "lm_chat").messages[0][1]


def tar_json(folder: Path, text: str, more: str) -> str:
    return tar(folder, {"json": f'{BOM}{{"caption": {text}, "more": {more}}}'.encode()}, member="json.caption")


def caption_table(folder: Path, text: str, more: str) -> str:
    (folder / "a.png").write_bytes(png())
    (folder / "c.jsonl").write_bytes(f'{BOM}{{"image": "a.png", "caption": {text}, "more": {more}}}\n'.encode())
    return corpus(folder / "c.jsonl", "captions", "t2i").text


def caption_store(folder: Path, text: str, more: str) -> str:
    (folder / "captions.json").write_bytes(f'{BOM}{{"0": {text}, "more": {more}}}'.encode())
    return tar(folder, {}, store="json", path=str(folder / "captions.json"))


def questions(folder: Path, text: str, more: str) -> str:
    (folder / "questions.json").write_bytes(f"{BOM}[{text}{'' if more == '0' else ', ' + more}]".encode())
    return read_questions(str(folder / "questions.json"))[0]


def tar(folder: Path, members: dict[str, bytes], **captions: Any) -> str:
    with tarfile.open(folder / "a.tar", "w") as file:
        for ending, content in ({"png": png()} | members).items():
            member = tarfile.TarInfo(f"0.{ending}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return corpus(folder / "a.tar", "webdataset", "t2i", captions=CaptionConfig(**captions)).text


JSON: tuple[Callable[[Path, str, str], str], ...] = (
    jsonl, packed, json_list, chat_prompt, document, conversation, tar_json, caption_table, caption_store, questions,
)  # fmt: skip
"""Functions that write a text as JSON with another value into a file with a byte order mark, and read the text."""


@pytest.mark.parametrize("source", JSON)
@pytest.mark.parametrize("text", ["a\u2028b\u2029c\x85d", "\U0001f600 e\u0301", "1\u200b2", "a <b> [c]"])
def test_every_source_of_json_reads_the_text_without_the_byte_order_mark(tmp_path, source, text):
    assert source(tmp_path, json.dumps(text), "0") == text
    assert source(tmp_path, json.dumps(text, ensure_ascii=False), "0") == text


@pytest.mark.parametrize("source", JSON)
@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ('"a \\ud83d b"', "0", "half of a surrogate pair"),
        ('"\\ude00\\ud83d"', "0", "half of a surrogate pair"),
        ('"a"', '["\\ud800"]', "half of a surrogate pair"),
        ('"a"', '[{"\\udfff": 1}]', "half of a surrogate pair"),
        ('"a"', DEEP, f"nested more than {MAX_DEPTH} deep"),
        (
            '"a"',
            DEEP_OBJECTS,
            f"nested more than {MAX_DEPTH} deep",
        ),
    ],
    ids=["cut emoji", "halves in the wrong order", "in a list", "in a key", "lists", "objects"],
)
def test_every_source_of_json_refuses_the_same(tmp_path, source, text, more, message):
    with pytest.raises((BadSample, ValueError), match=message):
        source(tmp_path, text, more)


def test_a_list_in_json_loses_only_the_row_that_is_refused(tmp_path):
    rows = ['{"prompt": "a"}', '{"prompt": "\\ud83d"}', f'{{"prompt": "c", "x": {DEEP}}}', '{"prompt": "d"}']
    (tmp_path / "a.json").write_text(f"[{', '.join(rows)}]")
    table, found = open_table(str(tmp_path / "a.json")), []
    for index in range(len(table)):
        try:
            found.append(table.row(index)["prompt"])
        except BadSample as error:
            found.append(f"{error.reason} in {str(error).partition(':')[0]}")
    assert found == ["a", "lone surrogate in a.json[1]", "too deep in a.json[2]", "d"]


def csv(folder: Path, content: bytes) -> str:
    (folder / "a.csv").write_bytes(content.replace(b"TEXT", b"prompt,label\n") + b",1\n")
    return prompt_of(folder / "a.csv")


def lines(folder: Path, content: bytes) -> str:
    (folder / "a.txt").write_bytes(content.replace(b"TEXT", b"") + b"\n")
    return prompt_of(folder / "a.txt")


def tar_text(folder: Path, content: bytes) -> str:
    return tar(folder, {"txt": content.replace(b"TEXT", b"")})


def beside(folder: Path, content: bytes) -> str:
    (folder / "0.caption").write_bytes(content.replace(b"TEXT", b""))
    return tar(folder, {}, store="beside", path=str(folder / "{key}.caption"))


PLAIN = (csv, lines, tar_text, beside)
"""Functions that write bytes, in which TEXT is replaced by what is before the text in this format, and read the
text."""


@pytest.mark.parametrize("source", PLAIN)
@pytest.mark.parametrize("text", ["a\u2028b\u2029c\x85d", "\U0001f600 e\u0301"])
def test_plain_text_is_read_without_the_byte_order_mark(tmp_path, source, text):
    assert source(tmp_path, (BOM + "TEXT" + text).encode()) == text


@pytest.mark.parametrize("source", PLAIN)
@pytest.mark.parametrize("content", [b"TEXTa\xff", b"TEXT\xed\xa0\xbd", "TEXTa".encode("utf-16"), b"TEXT\xc0\xaf"])
def test_plain_text_that_is_no_utf8_is_refused(tmp_path, source, content):
    with pytest.raises((BadSample, ValueError), match="not UTF-8 text"):
        source(tmp_path, content)


def test_prompts_and_corpora_refuse_every_special_token(tiny_model_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    vocabulary = Vocabulary.from_pretrained_parts(MMadaConfig.from_pretrained(tiny_model_folder), tokenizer)
    encoder = RowEncoder(tokenizer, vocabulary, LayoutConfig())
    names = tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer)))
    assert len(names) > 5
    for name in names:
        text = f"a{name}b"
        with pytest.raises(ValueError, match="special token"):
            check_prompt_text(Prompt(id="a:1", text=text), tokenizer)
        turns = ({"role": "user", "content": text}, {"role": "user", "content": "a"})
        with pytest.raises(ValueError, match="special token"):
            check_prompt_text(Prompt(id="a:1", text="a", messages=turns), tokenizer)
        for sample in (
            CorpusSample(key="a:1", task="lm", text=text),
            CorpusSample(key="a:1", task="lm_chat", messages=(("user", text), ("assistant", "b"))),
        ):
            with pytest.raises(BadSample) as caught:
                encoder.check(sample)
            assert caught.value.reason == "special token in text", name


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.jsonl.gz", "a.parquet", "a.tar"])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_a_pipe_or_device_is_refused_before_it_is_read(tmp_path, name, what):
    """Reading a pipe without a writer would not end, and /dev/zero would fill the memory."""
    os.mkfifo(tmp_path / name) if what == "pipe" else os.symlink("/dev/zero", tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: expected a file, found a pipe, a device or a socket"):
        if name == "a.tar":
            corpus(tmp_path / name, "webdataset", "t2i")
        else:
            load_prompts(str(tmp_path / name))


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin", "pipe.png"])
def test_an_image_that_is_no_file_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="no image could be read"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("HTTP://host/a.png", "is an address; download it"),
        ("s3://bucket/a.png", "is an address; download it"),
        ("ftp://host/a.png", "is an address; download it"),
        ('embedded:{"table": "other.json", "split": "train", "row": 0, "column": "a", "position": 0}',
         "is a name that only this program may use"),
    ],
)  # fmt: skip
def test_a_row_cannot_name_an_image_of_the_web_or_of_another_table(tmp_path, monkeypatch, image, message):
    monkeypatch.chdir(tmp_path)  # the folder of the file is then ".", which does not change the name
    Path("a.jsonl").write_text(json.dumps({"prompt": "a", "image": image}) + "\n")
    with pytest.raises(ValueError, match=message):
        load_prompts("a.jsonl")


@pytest.mark.parametrize("image", ["{folder}/b/red.png", "file://{folder}/b/red.png", "FILE://{folder}/b/red.png",
                                   "../b/red.png", "./red.png"])  # fmt: skip
def test_an_image_may_be_anywhere_on_this_machine(tmp_path, image):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "red.png").write_bytes(png())
    row = {"prompt": "a", "image": image.format(folder=tmp_path)}
    (tmp_path / "a" / "a.jsonl").write_text(json.dumps(row) + "\n")
    (prompt,) = load_prompts(str(tmp_path / "a" / "a.jsonl"))
    assert read_image(prompt.images[0]).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("name", ["embedded:x", "embedded:[]", 'embedded:{"table": 1}', "a\0b", "a" * 5000])
def test_an_invalid_name_is_a_data_error(name):
    with pytest.raises(ValueError, match=r"no such image any more|no image could be read"):
        read_image(name)
