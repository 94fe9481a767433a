"""Samples for try-reward."""

from __future__ import annotations

import json
import os

import pytest

from rewards.try_reward import main, read_samples


def test_a_byte_order_mark_and_line_separators_inside_texts_change_no_sample(tmp_path):
    file = tmp_path / "samples.jsonl"
    rows = [{"prompt": "a\u2028b", "completion": "1"}, {"prompt": "c", "completion": "2", "source": "web"}]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = read_samples(file)
    assert (first.prompt, first.completion) == ("a\u2028b", "1")
    assert (second.prompt, second.metadata) == ("c", {"source": "web"})


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[" * 100_000, b"3", b'{"prompt": 3}'])
def test_a_line_that_is_no_sample_is_named(tmp_path, line):
    file = tmp_path / "samples.jsonl"
    file.write_bytes(b'{"prompt": "a"}\n' + line)
    with pytest.raises(ValueError, match=r"samples\.jsonl:2: no sample with prompt and completion"):
        read_samples(file)


def test_an_image_in_a_format_that_starts_a_program_is_refused_before_it_does(tmp_path, monkeypatch):
    started, fake = tmp_path / "started", tmp_path / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {started}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    file = tmp_path / "samples.jsonl"
    for row in ({"image": "a.png"}, {"images": ["b.png"]}, {"image": "a\0"}, {"image": 5}, {"num_tokens": 1e400}):
        file.write_text(json.dumps({"prompt": "p", **row}))
        with pytest.raises(ValueError, match=r"samples\.jsonl:1: no sample"):
            read_samples(file)
    assert not started.exists()


@pytest.mark.parametrize("options", ["[1]", "null", '"a"', "{", "[" * 100_000])
def test_options_that_are_no_object_are_refused(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--reward", "cot_format", "--input", "a.jsonl", "--options", options])
    assert "argument --options: " in capsys.readouterr().err


def test_the_table_marks_what_it_leaves_out_of_long_texts(tmp_path, capsys):
    reward, file = tmp_path / "my.py", tmp_path / "samples.jsonl"
    reward.write_text("def length(completions):\n    return [len(text) for text in completions]\n")
    rows = [{"prompt": "p" * 41, "completion": "c" * 41}, {"prompt": "p" * 40, "completion": "c" * 40}]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert main(["--reward", f"{reward}:length", "--input", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"   41.0000  '{'p' * 37}...' -> '...{'c' * 37}'",
        f"   40.0000  '{'p' * 40}' -> '{'c' * 40}'",
    ]
