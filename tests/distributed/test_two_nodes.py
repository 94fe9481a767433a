"""Tests runs on two Ray nodes, simulated on this machine: equal numbers as on one, and an error when a node ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parent.parent.parent
NODE: dict[str, Any] = {"num_cpus": 4, "num_gpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    """Starts a head and a second node, each with a declared GPU. This process does not join the cluster."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def command(tiny_unified_folder: Path, tmp_path: Path) -> list[str]:
    """Returns the command of a stage of captions and texts, whose rows have different numbers of tokens."""
    for colour in ("red", "green", "blue"):
        (tmp_path / "classes" / colour).mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "classes" / colour / "a.png")
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": "x" * n}) + "\n" for n in (1, 5, 20)))
    config = tmp_path / "stage.yaml"
    config.write_text(f"""
actor: {{model_name_or_path: {tiny_unified_folder}, adam: {{lr: 1.0e-3}}, lr_warmup_ratio: 0.0}}
image: {{resolution: 16}}
layout: {{max_text_tokens: 20, num_text_tokens: 24}}
t2i: {{batch_size: 4, sources: {{a: {{kind: image_folder, task: t2i, path: {tmp_path}/classes,
  captions: {{store: class_name}}}}}}}}
lm: {{batch_size: 4, sources: {{b: {{kind: text, task: lm, path: {tmp_path}/text.jsonl}}}}}}
train: {{num_steps: 3, micro_batch_size: 2}}
ckpt: {{save_steps: 0}}
ds: {{param_dtype: fp32}}
""")
    return [sys.executable, "-m", "unigrpo", "pretrain", "--config", str(config)]


def start(cluster: Cluster, command: list[str], run: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, "--run_dir", str(run), *flags], cwd=ROOT, env={**os.environ, "RAY_ADDRESS": str(cluster.address)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss/total"] for row in rows if "loss/total" in row]


def test_two_nodes_have_the_losses_of_one(two_nodes: Cluster, command: list[str], tmp_path: Path) -> None:
    for name, nodes in (("one", "1"), ("two", "2")):
        process = start(two_nodes, command, tmp_path / name, "--actor.num_nodes", nodes)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output[-2000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert len(losses(tmp_path / "one")) == 3


@pytest.mark.timeout(600)
def test_a_node_that_ends_stops_the_run_with_a_message_and_the_run_resumes_on_the_other(
    two_nodes: Cluster, command: list[str], tmp_path: Path
) -> None:
    flags = ("--actor.num_nodes", "2", "--train.num_steps", "100000", "--ckpt.save_steps", "5")
    process = start(two_nodes, command, tmp_path / "run", *flags)
    deadline = time.monotonic() + 90
    while not any((tmp_path / "run" / "checkpoints").glob("*/complete.json")):
        assert time.monotonic() < deadline, "no checkpoint was written"
        assert process.poll() is None, process.communicate()[0][-2000:]
        time.sleep(0.2)
    two_nodes.remove_node(next(iter(two_nodes.worker_nodes)), allow_graceful=False)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "died in" in output
    assert "The same command resumes from the last checkpoint" in output, "the message says how to resume"
    newest = max((tmp_path / "run" / "checkpoints").glob("*/complete.json")).parent.name
    done = int(newest.removeprefix("step_"))
    flags = ("--actor.num_nodes", "1", "--train.num_steps", str(done + 2))
    output, _ = start(two_nodes, command, tmp_path / "run", *flags).communicate(timeout=120)
    assert f"{newest} was written by 2 policy ranks and is loaded on 1" in output, output[-2000:]
    assert len(losses(tmp_path / "run")) == done + 2, output[-2000:]
