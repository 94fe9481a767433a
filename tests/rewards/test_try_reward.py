"""Tests try-reward and its samples."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from rewards import try_reward
from rewards.base import RewardInput
from rewards.runtime.host import RewardHost, RewardInfo, RewardSpec
from rewards.runtime.process import ProcessFailed
from rewards.runtime.scoring import Scores
from rewards.try_reward import main, read_samples
from unigrpo.data import images


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


def test_the_reward_gets_the_columns_of_a_sample(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 1), "red").save(tmp_path / "a.png")
    row = {
        "prompt": "p", "completion": "c", "label": "7", "task": "mmu", "image": "a.png",
        "images": ["a.png", "a.png"], "tokens": 5, "is_full_length": 1, "prompt_ids": [1, 2],
        "messages": [{"role": "user", "content": "p"}], "level": 3,
    }  # fmt: skip
    (tmp_path / "samples.jsonl").write_text(json.dumps(row))
    (found,) = read_samples(tmp_path / "samples.jsonl")
    assert (found.label, found.task, found.raw_completion, found.num_tokens) == ("7", "mmu", "c", 5)
    assert (found.is_full_length, found.prompt_ids, found.completion_ids) == (True, (1, 2), ())
    assert (found.messages, found.metadata) == (({"role": "user", "content": "p"},), {"level": 3, "tokens": 5})
    assert found.image is not None
    assert [image.getpixel((1, 0)) for image in (found.image, *found.input_images)] == [(255, 0, 0)] * 3


def test_files_without_samples_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"absent.jsonl: no such file"):
        read_samples(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    assert main(["--reward", "math_answer", "--input", str(tmp_path / "empty.jsonl")]) == 2
    assert capsys.readouterr().err.endswith("empty.jsonl: holds no sample\n")


USER_CODE = """
import os
from rewards.base import Reward

class Even(Reward):
    name, range, unit = "even", (0.0, 1.0), "x"
    def __call__(self, inputs):
        return [None if len(i.completion) % 2 else 0.5 for i in inputs]
    def check_prompt(self, prompt):
        if prompt.label is None:
            raise ValueError("it has no gold")
    def logs(self):
        return {"mean_length": 1.5}

class Ends(Even):
    def __call__(self, inputs):
        os._exit(3)

class Fails(Even):
    def __call__(self, inputs):
        return 1 / 0
"""


class InThisProcess:
    """Replaces the process of a reward, whose start takes a second."""

    def __init__(self, spec: RewardSpec) -> None:
        self._host = RewardHost(spec)

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._host.close()

    def load(self, *, seconds: float) -> RewardInfo:
        return self._host.load()

    def check_prompts(self, prompts: list[RewardInput], *, seconds: float) -> list[str]:
        return self._host.check_prompts(prompts)

    def score(self, inputs: list[RewardInput], *, seconds: float) -> Scores:
        if "Ends" in self._host._spec.name:
            raise ProcessFailed("ended its own process (exit status 3)")
        return self._host.score(inputs)


@pytest.mark.parametrize(
    ("name", "label", "status", "printed"),
    [
        (
            "Even",
            "7",
            1,
            ["   missing  'p0' -> 'x'", "    0.5000  'p1' -> 'xx'", "even: 2 samples, 1 missing (returned None), "],
        ),
        ("Even", None, 2, ["error: samples.jsonl, sample 1: it has no gold (and 1 more samples)"]),
        ("Ends", "7", 2, ["Ends' ended its own process (exit status 3)"]),
        ("Fails", "7", 2, ["error: reward 'even' raised ZeroDivisionError: division by zero (", "mine.py:"]),
    ],
)
def test_the_command_prints_values_or_one_line_that_says_what_failed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    label: str | None,
    status: int,
    printed: list[str],
) -> None:
    monkeypatch.setattr(try_reward, "RewardProcess", InThisProcess)
    (tmp_path / "mine.py").write_text(USER_CODE)
    rows = [{"prompt": f"p{i}", "completion": "x" * (i + 1), "label": label} for i in range(2)]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--reward", f"{tmp_path / 'mine.py'}:{name}", "--input", str(tmp_path / "samples.jsonl")]
    assert main(arguments) == status
    output = capsys.readouterr()
    assert [text for text in printed if text not in output.out + output.err] == []
    assert len(output.err.splitlines()) == (status == 2)
    assert ("mean_length 1.5" in output.out) == (status == 1)


def test_images_are_read_in_the_formats_that_training_reads():
    assert try_reward.FORMATS == images.FORMATS, "rewards/ imports nothing of unigrpo, so it has a second list"
