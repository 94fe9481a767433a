"""Tests that a stage on Ray with DeepSpeed on one and two ranks equals a run in one process."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import Recorder
from PIL import Image

from unigrpo.config import ActorConfig, AdamConfig, DeepSpeedConfig, ImageConfig
from unigrpo.config.corpora import CaptionConfig, LayoutConfig, SourceConfig
from unigrpo.config.denoising import ModalityConfig, StageConfig, StageTrainConfig, ValidationConfig
from unigrpo.distributed.placement import start_stage
from unigrpo.evaluation.denoising import StageEvaluator
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.trainers.denoising import StageTrainer
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.workers.group import LocalGroup, WorkerGroup

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def config(tiny_unified_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> StageConfig:
    """Returns a stage of images and texts, whose rows have different numbers of tokens."""
    root = tmp_path_factory.mktemp("world")
    for colour in ("red", "green", "blue"):
        (root / "classes" / colour).mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(root / "classes" / colour / "a.png")
    (root / "text.jsonl").write_text("".join(json.dumps({"text": "x" * n}) + "\n" for n in (1, 5, 20)))
    images = SourceConfig(
        kind="image_folder", task="t2i", path=str(root / "classes"), captions=CaptionConfig(store="class_name")
    )
    text = SourceConfig(kind="text", task="lm", path=str(root / "text.jsonl"))
    return StageConfig(
        image=ImageConfig(tokenizer=str(tiny_unified_folder / "image_tokenizer"), resolution=16),
        actor=ActorConfig(
            model_name_or_path=str(tiny_unified_folder), adam=AdamConfig(lr=1e-3), lr_warmup_ratio=0.0, max_norm=0.1
        ),
        layout=LayoutConfig(max_text_tokens=20, num_text_tokens=24),
        t2i=ModalityConfig(batch_size=4, sources={"images": images}),
        lm=ModalityConfig(batch_size=4, loss_coef=0.3, sources={"text": text}),
        train=StageTrainConfig(num_steps=3, micro_batch_size=2),
        validation=ValidationConfig(num_rows=4, lm=ModalityConfig(sources={"text": text})),
        ds=DeepSpeedConfig(param_dtype="fp32"),
    )


def fit(config: StageConfig, workers: WorkerGroup, path: Path) -> tuple[dict[int, dict[str, float]], dict[str, Any]]:
    trainer = StageTrainer(
        config, workers=workers, validation_prompts=[], checkpoints=CheckpointStore(path / "checkpoints", max_num=2)
    )
    output = Recorder()
    trainer.fit(output)
    trainer.export(path / "policy")
    rows = {
        step: {k: v for k, v in row.items() if k.startswith(("loss/", "validation/", "grad_norm"))}
        for step, row in output.rows.items()
    }
    return rows, MMadaModelLM.from_pretrained(path / "policy").state_dict()


@pytest.mark.parametrize(
    ("ranks", "zero_stage"),
    [pytest.param(1, 2, marks=pytest.mark.slow), pytest.param(2, 2, marks=pytest.mark.slow), (2, 3)],
)
def test_losses_and_weights_are_those_of_one_process(
    cluster: None, config: StageConfig, tmp_path: Path, ranks: int, zero_stage: Any
):
    model = MMadaModelLM.from_pretrained(config.actor.model_name_or_path)
    worker = StageEvaluator(config, LocalEngine(model, config.actor, config.num_optimizer_steps))
    rows, weights = fit(config, LocalGroup(worker), tmp_path / "local")

    spread = dataclasses.replace(
        config,
        actor=dataclasses.replace(config.actor, num_gpus_per_node=ranks),
        ds=dataclasses.replace(config.ds, zero_stage=zero_stage),
    )
    groups = start_stage(spread)
    try:
        ray_rows, ray_weights = fit(spread, groups.workers, tmp_path / "ray")
    finally:
        groups.close()
    assert set(ray_rows) == set(rows) == {0, 1, 2, 3}
    for step, row in rows.items():
        assert ray_rows[step] == pytest.approx(row, rel=1e-4, abs=1e-6)
    for key, weight in weights.items():
        assert torch.allclose(ray_weights[key], weight, atol=1e-5), key
    assert (tmp_path / "ray" / "policy" / "image_tokenizer" / "config.json").exists()
