"""Tests that the files of a run, messages and the log show no secrets."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from unigrpo.cli.main import main
from unigrpo.runs.secrets import without_secrets

ROOT = Path(__file__).parents[2]
URL = "http://me:sesame@127.0.0.1:9/score?key=sesame"


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({"api_key": "S1"}, {"api_key": "(hidden)"}),
        ({"apikey": "S1", "auth": "S2", "key": "S3"}, {"apikey": "(hidden)", "auth": "(hidden)", "key": "(hidden)"}),
        ({"auth": {"user": "u", "pass": "S1"}, "password": 1234}, {"auth": "(hidden)", "password": "(hidden)"}),
        ({"hf_token": "S1", "token": "S2"}, {"hf_token": "(hidden)", "token": "(hidden)"}),
        ({"aws_secret_access_key": "S1"}, {"aws_secret_access_key": "(hidden)"}),
        (
            {"url": "http://user:S2@host:8000/v1?key=S3&model=m&api-key=S4#top"},
            {"url": "http://(hidden)@host:8000/v1?key=(hidden)&model=m&api-key=(hidden)#top"},
        ),
        (
            {"headers": {"Authorization": "Bearer S1", "X-Anything": "S2", "Accept": "text/html"}},
            {"headers": {"Authorization": "(hidden)", "X-Anything": "(hidden)", "Accept": "text/html"}},
        ),
        (
            {"accessToken": "S1", "pwd": "S2", "api_keys": ["S3"], "cookies": "S4", "X-API-Key": "S5"},
            dict.fromkeys(("accessToken", "pwd", "api_keys", "cookies", "X-API-Key"), "(hidden)"),
        ),
        (
            {
                "anything": "use sk-proj-0123456789abcdef now",
                "other": ["hf_aaaaaaaaaaaaaaaaaaa1", "AKIA0123456789ABCDEF"],
            },
            {"anything": "use (hidden) now", "other": ["(hidden)", "(hidden)"]},
        ),
        ({"template": "Authorization: Bearer S1"}, {"template": "Authorization: Bearer (hidden)"}),
        (
            {"urls": ["https://a:S1@h/", "https://h/?sig=S2"]},
            {"urls": ["https://(hidden)@h/", "https://h/?sig=(hidden)"]},
        ),
    ],
)
def test_secrets_are_hidden_at_any_position(options: dict[str, Any], written: dict[str, Any]):
    assert without_secrets({"reward": {"terms": [{"options": options}]}}) == {
        "reward": {"terms": [{"options": written}]}
    }


@pytest.mark.parametrize(
    "options",
    [
        {"mask_token": "[MASK]", "eos_token": "<|endoftext|>", "pad_token": 0},
        {"best_metric_key": "eval/reward", "input_key": "question", "max_tokens": 5, "key": "", "token": None},
        {"url": "http://127.0.0.1:8000/v1?model=a&keys=2", "path": "a@b:c", "text": "What is x?key=3"},
        {"stop_tokens": ["a"], "maxTokens": 3, "path": "/data/task-1234567890123456/sk-learn-of-many-words"},
        {"tokenizer": "folder", "authors": "a", "keyword": "b", "secretary": "c"},
    ],
)
def test_other_values_are_kept_so_that_the_file_starts_the_run_again(options: dict[str, Any]):
    assert without_secrets(options) == options


@pytest.mark.parametrize(
    "flags",
    [
        ["--reward.terms", json.dumps([{"name": "remote", "weight": URL}])],
        ["--reward.terms", json.dumps([{"name": "remote", "options": URL}])],
        ["--reward.terms", URL],
        ["--reward.terms", f'[{{"name": "remote", "options": {{"url": "{URL}"}}'],
        ["--reward.termz", URL],
        ["--reward.terms", json.dumps([{"name": "remote", "options": {"url": URL, "urll": URL}}])],
        ["--reward.terms", json.dumps([{"name": "remote", "options": {"url": URL.replace(":9", ":port")}}])],
        ["--actor.model_name_or_path", URL],
        ["--eval.dataset", URL],
    ],
)
def test_no_message_of_a_command_shows_the_secrets_of_a_url(flags, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(ROOT)
    run = ["train", "--config", "launch/configs/tiny_text.yaml", "--run_dir", str(tmp_path / "run")]
    assert main([*run, *flags]) == 2
    shown = capsys.readouterr()
    assert "error: " in shown.err
    assert "sesame" not in shown.out + shown.err + caplog.text


def test_no_line_of_the_log_shows_the_secrets_of_a_url(monkeypatch, capsys):
    def logs(_: object) -> None:
        logging.getLogger("unigrpo").warning("%s : %d answers", URL, 3)

    monkeypatch.setattr("unigrpo.cli.report.run", logs)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert main(["report", "run"]) == 0
    error = capsys.readouterr().err
    assert "http://(hidden)@127.0.0.1:9/score?key=(hidden) : 3 answers" in error
    assert "sesame" not in error
