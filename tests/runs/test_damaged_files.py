"""Tests that the error about a damaged file of a run is one line with the file, and the found and expected values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unigrpo.cli.main import main
from unigrpo.config import RunConfig
from unigrpo.runs import report
from unigrpo.runs.config_file import config_text
from unigrpo.runs.model_card import read_progress

STEP = {"step": 1, "reward/total_mean": 0.5}
SAMPLE = {
    "step": 1,
    "kind": "train",
    "prompt_id": "a:1",
    "task": "text",
    "prompt": "1",
    "completion": "2",
    "reward": 1,
}
SCORE = {"step": 1, "prompt_id": "a:1", "task": "text", "scores": {"r_greedy": 1.0}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Path:
    """Returns a run directory whose report can be written, without plots."""
    monkeypatch.setattr(report, "write_plots", lambda folder, metrics: {})
    (tmp_path / "config.yaml").write_text(config_text(RunConfig()))
    (tmp_path / "metrics.jsonl").write_text(json.dumps(STEP) + "\n")
    (tmp_path / "rollouts.jsonl").write_text(json.dumps(SAMPLE) + "\n")
    (tmp_path / "scores.jsonl").write_text(json.dumps(SCORE) + "\n")
    (tmp_path / "summary.json").write_text(json.dumps({"steps": 1, "wall_seconds": 2.0, "machine": "m", "eval": {}}))
    return tmp_path


def test_undamaged_files_give_a_report(run, capsys):
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.jsonl", '[1]\n{"step": 1}\n', "metrics.jsonl:1: found [1], expected an object; restore the file"),
        (
            "metrics.jsonl",
            '{"step": 1}\n{"step": 2, "loss/total": "3"}\n',
            "metrics.jsonl:2: loss/total is '3', expected",
        ),
        ("metrics.jsonl", '{"step": null}\n', "metrics.jsonl:1: step is None, expected an integer"),
        (
            "rollouts.jsonl",
            json.dumps({**SAMPLE, "completion": 5}) + "\n",
            "rollouts.jsonl:1: completion is 5, expected",
        ),
        (
            "rollouts.jsonl",
            json.dumps({**SAMPLE, "images": "a"}) + "\n",
            "rollouts.jsonl:1: images is 'a', expected a list",
        ),
        (
            "scores.jsonl",
            json.dumps({**SCORE, "scores": [1]}) + "\n",
            "scores.jsonl:1: scores is [1], expected an object",
        ),
        (
            "scores.jsonl",
            json.dumps({**SCORE, "task": ["a"]}) + "\n",
            "scores.jsonl:1: task is ['a'], expected a text",
        ),
        ("summary.json", "[]", "summary.json: found [], expected an object"),
        ("summary.json", '{"steps": 1}', "summary.json: 'wall_seconds' is missing"),
        ("summary.json", '{"steps": 1, "wall_seconds": "2"}', "summary.json: wall_seconds is '2', expected a number"),
        (
            "summary.json",
            '{"steps": 1, "wall_seconds": 2, "eval": {"after": [1]}}',
            "summary.json: eval.after is [1], ",
        ),
        ("config.yaml", "[1, 2]", "config.yaml cannot be read (found [1, 2], expected an object); restore"),
        ("config.yaml", "actor: 5", "config.yaml: actor is 5, expected an object; restore the file"),
        ("config.yaml", "actor: {num_nodes: a}", "config.yaml: actor.num_nodes is 'a', expected an integer"),
        (
            "config.yaml",
            "data: {prompt_dataset: 3}",
            "config.yaml: data.prompt_dataset is 3, expected a text or a list",
        ),
        ("config.yaml", "a: &a [*a]", "config.yaml cannot be read (the YAML text is nested too deeply"),
    ],
)
def test_a_damaged_file_is_named_by_the_report(run, capsys, file, content, message):
    (run / file).write_text(content)
    for arguments in ([str(run)], [str(run), str(run), "--output", str(run / "both.html")]):
        if len(arguments) == 1 or file not in ("rollouts.jsonl", "summary.json"):
            assert main(["report", *arguments]) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"error: {run}/{message}")
            assert error.count("\n") == 1


def test_an_invalid_image_is_named(run, capsys):
    for name in ("step_00000001.png", "step_x.png"):
        (run / "images").mkdir(exist_ok=True)
        (run / "images" / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n")
    assert main(["report", str(run)]) == 2
    assert "step_00000001.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "config.yaml cannot be read (found [1, 2], expected an object)"),
        ("a text", "config.yaml cannot be read (found 'a text', expected an object)"),
        ("train: 3", "train is 3 in the config; it is a section"),
    ],
)
def test_a_damaged_config_is_named_by_export(run, capsys, content, message):
    (run / "config.yaml").write_text(content)
    assert main(["export", str(run)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_folder_without_a_config_is_no_run(tmp_path, capsys):
    assert main(["export", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} holds no config.yaml; name the directory of a run\n"


def test_the_model_card_names_a_damaged_line(run):
    (run / "metrics.jsonl").write_text('{"step": 1}\n5\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: found 5, expected an object"):
        read_progress(run, 1)
