"""Tests that the suite for one GPU also runs on a CPU, with only torch, transformers and safetensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import gpu_suite
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sizes import SIZES

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def suite() -> gpu_suite.Suite:
    small = SIZES["small"]
    sizes: dict[str, Any] = {"d_model": 16, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 32}
    image = replace(small.image, num_image_tokens=16, num_denoising_steps=4)
    size = replace(small, model=small.model | sizes, image=image, text=replace(small.text, block_length=4))
    return gpu_suite.Suite(size=size, model=size.build(), rows=2, row=40, new_tokens=8)


def test_every_part_is_measured_and_its_result_is_written_at_once(
    suite: gpu_suite.Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, seen = tmp_path / "out" / "suite.json", []

    def last(_: gpu_suite.Suite) -> dict[str, Any]:
        seen.extend(json.loads(file.read_text()))
        raise RuntimeError("no such kernel")

    parts = [name for name in gpu_suite.PARTS if name != "fused"]  # the compilation takes a minute
    monkeypatch.setitem(gpu_suite.PARTS, "last", (last, 1.0))
    monkeypatch.setitem(gpu_suite.PARTS, "long", (last, 1e6))
    results = gpu_suite.run(suite, file, [*parts, "last", "long"], seconds=1e4)
    assert seen == parts
    assert json.loads(file.read_text()) == results
    assert results["last"]["failed"] == "RuntimeError: no such kernel"
    assert results["long"]["skipped"].endswith("the part may need 1000000 s")
    assert [name for name in parts if "failed" in results[name] or "skipped" in results[name]] == []
    assert results["parity"]["text"]["largest_gap"] < 1e-5
    assert results["parity"]["t2i"]["largest_gap"] < 1e-5
    assert 0 < results["precision"]["mean_gap"] < 0.05
    assert results["logit_memory"]["log_probs_gb"] < results["logit_memory"]["all_logits_gb"]
    predictions = [cost for cost in results["cost_model"].values() if isinstance(cost, dict)]
    assert len(predictions) == 6
    assert all(cost["measured"] > 0 < cost["predicted"] for cost in predictions)


def test_a_part_without_the_results_that_it_needs_is_skipped(suite: gpu_suite.Suite, tmp_path: Path) -> None:
    alone = replace(suite, results={"scoring": {"tflops": 1.0}, "update": {"failed": "RuntimeError: no memory"}})
    results = gpu_suite.run(alone, tmp_path / "suite.json", ["cost_model"], seconds=1e4)
    assert results["cost_model"]["skipped"] == "it needs the results of update, text_rollouts, image_rollouts"


def folder_of(names: tuple[str, ...], folder: Path) -> Path:
    """Links packages and their dependencies into a folder."""
    folder.mkdir()
    left, done = list(names), set()
    while left:
        name = canonicalize_name(left.pop())
        if name in done:
            continue
        done.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # a dependency on another system
        requirements = [Requirement(text) for text in found.requires or []]
        left += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
        for entry in {Path(file.parts[0]) for file in found.files or [] if file.parts[0] != ".."}:
            if not (folder / entry).exists():
                (folder / entry).symlink_to(Path(str(found.locate_file(entry))))
    return folder


@pytest.mark.slow
def test_the_command_needs_torch_transformers_and_safetensors_alone(tmp_path: Path) -> None:
    packages = folder_of(("torch", "transformers", "safetensors", "numpy"), tmp_path / "packages")
    assert not any((packages / name).exists() for name in ("ray", "deepspeed", "openrlhf", "jaxtyping", "PIL", "peft"))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    arguments = ["--size", "small", "--parts", "machine,logit_memory", "--out", "out.json"]
    done = subprocess.run(
        ["bash", str(FOLDER / "gpu_suite.sh"), *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": str(python), "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a library prints a message that users cannot act on"
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["machine"]["absent"] == ["jaxtyping", "PIL", "peft"]
    assert results["logit_memory"]["log_probs_gb"] > 0
