"""Samples for try-reward."""

from __future__ import annotations

import json

import pytest

from rewards.try_reward import read_samples


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
