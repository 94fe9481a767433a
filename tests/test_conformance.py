"""Tests the conformance command: every case of the repository passes, and errors in a folder are found."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

COMMAND = Path(__file__).parent / "conformance.py"
OUTPUT = ["case", "status", "max_abs_diff", "tolerance", "why"]


def results(stdout: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Returns the line of each case, and the summary."""
    lines = [json.loads(line) for line in stdout.splitlines()]
    cases = {line["case"]: line for line in lines[:-1]}
    assert all(list(line) == OUTPUT for line in cases.values())
    return cases, lines[-1]["summary"] if lines else {}


def run_in_this_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Returns the exit status of the command, which runs in this process to save the start of another one."""
    monkeypatch.setattr(sys, "argv", [str(COMMAND), str(folder)])
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(COMMAND), run_name="__main__")
    finally:
        torch.use_deterministic_algorithms(is_deterministic)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_every_public_case_passes(
    golden_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run_in_this_process(golden_folder, monkeypatch)
    cases, summary = results(capsys.readouterr().out)
    assert {name: line["why"] for name, line in cases.items() if line["status"] == "fail"} == {}
    assert status == 0
    names = [case["name"] for case in json.loads((golden_folder / "cases.json").read_text())["cases"]]
    assert list(cases) == names
    assert summary == {"cases": 80, "pass": 77, "fail": 0, "not_applicable": 3}
    for name, line in cases.items():
        if line["status"] == "not_applicable":
            assert "trap" in name
            assert line["why"]
        else:
            assert line["max_abs_diff"] >= 0
            assert line["tolerance"]


def test_wrong_numbers_missing_files_and_unknown_kinds_fail(
    golden_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = {case["name"]: case for case in json.loads((golden_folder / "cases.json").read_text())["cases"]}
    folder = tmp_path / "cases"
    folder.mkdir()

    def add(name: str, source: str, **changes: Any) -> dict[str, Any]:
        shutil.copy(golden_folder / entries[source]["file"], folder / f"{name}.safetensors")
        return {**entries[source], "name": name, "file": f"{name}.safetensors", **changes}

    shutil.copy(golden_folder / "model_small.weights.safetensors", folder)
    cases = [
        add("num_transfer_tokens_other", "num_transfer_tokens"),
        add("mask_schedules", "mask_schedules"),
        add("text_generate_other", "text_generate_len16_steps4_block4"),
        add("text_generate_mask_in_prompt", "text_generate_mask_in_prompt_trap"),
        add("telepathy", "num_transfer_tokens"),
        {**entries["unit_rope"], "file": "gone.safetensors"},
    ]
    arrays = load_file(folder / "mask_schedules.safetensors")
    arrays["out.cosine"][3] += 1e-3
    save_file(arrays, folder / "mask_schedules.safetensors")
    (folder / "cases.json").write_text(json.dumps({"cases": cases}))
    assert run_in_this_process(folder, monkeypatch) == 1
    found, summary = results(capsys.readouterr().out)
    assert summary == {"cases": 6, "pass": 2, "fail": 4, "not_applicable": 0}
    assert found["num_transfer_tokens_other"]["status"] == found["text_generate_other"]["status"] == "pass"
    assert "out.cosine is off by 0.001" in found["mask_schedules"]["why"]
    assert "refused on purpose" in found["text_generate_mask_in_prompt"]["why"], "only traps may be not applicable"
    assert "no check knows" in found["telepathy"]["why"]
    assert "gone.safetensors" in found["unit_rope"]["why"]


def test_a_folder_without_cases_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_in_this_process(tmp_path, monkeypatch) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no list of cases in cases.json" in printed.err
