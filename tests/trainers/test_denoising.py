"""Tests a stage in one process: sources, all modalities, exact resuming, validation, and errors."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import Recorder, undocumented_metrics
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unigrpo.checks.denoising import check_stage
from unigrpo.config import (
    ActorConfig,
    AdamConfig,
    DeepSpeedConfig,
    ImageConfig,
    ImageSamplingConfig,
    TextSamplingConfig,
)
from unigrpo.config.corpora import CaptionConfig, LayoutConfig, SourceConfig
from unigrpo.config.denoising import (
    ModalityConfig,
    NoiseConfig,
    StageConfig,
    StageTrainConfig,
    ValidationConfig,
)
from unigrpo.data.prompts import load_prompts
from unigrpo.evaluation.denoising import StageEvaluator, validate
from unigrpo.models.checkpoint_io import load_config, load_policy
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.runs.directory import RunDirectory
from unigrpo.trainers.denoising import StageTrainer, step_metrics
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.workers.denoising import DenoisingWorker
from unigrpo.workers.group import LocalGroup

COLOURS = ("red", "green", "blue", "black")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Writes class folders of images of one colour, a CSV of questions, a text and a chat file, and prompts."""
    root = tmp_path_factory.mktemp("world")
    rows = []
    for colour in COLOURS:
        (root / "classes" / colour).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (16 + i, 16), colour).save(root / "classes" / colour / f"{i}.png")
            rows.append({"image": f"classes/{colour}/{i}.png", "question": "colour?", "solution": colour})
        rows.append({"image": f"no_such/{colour}.png", "question": "colour?", "solution": colour})
    with (root / "vqa.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (root / "text.jsonl").write_text("".join(json.dumps({"text": f"{c} is a colour"}) + "\n" for c in COLOURS))
    chats = [
        {"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": str(i)}]} for i in (2, 3)
    ]
    (root / "chat.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    prompts = [
        {"task": "t2i", "prompt": "red"},
        {"task": "mmu", "prompt": "colour?", "image": str(root / "classes/red/0.png")},
        {"task": "text", "prompt": "1+1"},
    ]
    (root / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return root


def modalities(world: Path) -> dict[str, Any]:
    images = SourceConfig(
        kind="image_folder", task="t2i", path=str(world / "classes"), captions=CaptionConfig(store="class_name")
    )
    return {
        "t2i": ModalityConfig(batch_size=4, sources={"classes": images}),
        "mmu": ModalityConfig(
            batch_size=2,
            loss_coef=0.5,
            sources={"vqa": SourceConfig(kind="vqa", task="mmu", path=str(world / "vqa.csv"), max_bad_fraction=0.3)},
        ),
        "lm_chat": ModalityConfig(
            batch_size=2,
            loss_coef=0.1,
            sources={
                "chat": SourceConfig(kind="chat", task="lm_chat", path=str(world / "chat.jsonl"), weight=0.9),
                "text": SourceConfig(kind="text", task="lm", path=str(world / "text.jsonl"), weight=0.1),
            },
        ),
    }


def stage(world: Path, model: Path, **changes) -> StageConfig:
    held_out: dict[str, Any] = {k: ModalityConfig(sources=modalities(world)[k].sources) for k in ("t2i", "mmu")}
    config = StageConfig(
        image=ImageConfig(tokenizer=str(model / "image_tokenizer"), resolution=16),
        actor=ActorConfig(model_name_or_path=str(model), adam=AdamConfig(lr=1e-3), lr_warmup_ratio=0.0),
        layout=LayoutConfig(max_text_tokens=40, num_text_tokens=48),
        train=StageTrainConfig(num_steps=4, micro_batch_size=2),
        validation=ValidationConfig(
            num_rows=4,
            prompts=str(world / "prompts.jsonl"),
            text=TextSamplingConfig(max_new_tokens=4, block_length=4, num_denoising_steps=2),
            image=ImageSamplingConfig(num_denoising_steps=2),
            **held_out,
        ),
        ds=DeepSpeedConfig(param_dtype="fp32"),
        **modalities(world),
    )
    return dataclasses.replace(config, **changes)


def make_trainer(config: StageConfig, path: Path) -> StageTrainer:
    model = load_policy(config.actor.model_name_or_path, torch.float32, "sdpa", max_text_tokens=config.max_text_tokens)
    worker = StageEvaluator(config, LocalEngine(model, config.actor, config.num_optimizer_steps))
    prompts = load_prompts(config.validation.prompts) if config.validation.prompts else []
    return StageTrainer(
        config, workers=LocalGroup(worker), validation_prompts=prompts, checkpoints=CheckpointStore(path, max_num=3)
    )


def weights(trainer: StageTrainer) -> dict[str, torch.Tensor]:
    return trainer.workers.worker._engine.model.state_dict()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def whole(world, tiny_unified_folder, tmp_path_factory):
    trainer, output = make_trainer(stage(world, tiny_unified_folder), tmp_path_factory.mktemp("whole")), Recorder()
    return trainer, output, trainer.fit(output)


def test_a_stage_reports_every_modality_and_its_validation(whole):
    _, output, summary = whole
    for name in ("loss/total", "loss/t2i", "loss/mmu", "loss/lm_chat", "mask_ratio/t2i", "grad_norm", "learning_rate",
                 "tokens/step"):  # fmt: skip
        assert all(name in row for step, row in output.rows.items() if step > 0), name
    row = output.rows[4]
    parts = row["loss/t2i"] + 0.5 * row["loss/mmu"] + 0.1 * row["loss/lm_chat"]
    assert row["loss/total"] == pytest.approx(parts)
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    assert set(before) == set(after)
    assert after["validation/t2i_nats_per_token"] != before["validation/t2i_nats_per_token"]
    assert sorted({step for step, _ in output.samples}) == list(output.grids) == [0, 4]
    json.dumps(summary)
    assert undocumented_metrics(name for row in output.rows.values() for name in row) == []


def test_a_step_reports_the_work_and_the_memory_of_its_worker(whole):
    work = whole[1].rows[4]
    assert 0 < work["perf/denoising_train_step_seconds"] <= work["time/step_seconds"]
    assert work["time/read_seconds"] + work["time/update_seconds"] <= work["perf/denoising_train_step_seconds"]
    assert work["perf/denoising_tflops"] > 0
    assert work["memory/denoising_peak_gb"] > 0
    assert not any(name.startswith("perf/denoising_row_losses") for name in work), "validation is not part of a step"


def test_samples_of_fixed_prompts_are_generated_with_and_without_guidance(whole, world):
    trainer, _, _ = whole
    _, results = validate(trainer.workers, trainer.validation_prompts, trainer.config)
    drawn, answer, text = results.samples
    assert drawn.image is not None
    assert drawn.image_unguided is not None
    assert drawn.image.shape == drawn.image_unguided.shape == (16, 16, 3)
    assert answer.image is None
    assert answer.text
    assert text.text
    for one in results.reconstructions:
        assert one.original.shape == one.reconstruction.shape == one.prediction.shape == (16, 16, 3)
        assert 0 < one.mask_ratio <= 1
    colours = {tuple(one.original[8, 8]) for one in results.reconstructions}
    assert colours <= {(255, 0, 0), (0, 128, 0), (0, 0, 255), (0, 0, 0)}


@pytest.mark.parametrize("thinks", [False, True])
def test_the_config_of_a_policy_with_r2i_has_the_length_of_its_texts(world, tiny_unified_folder, tmp_path, thinks):
    thoughts = tmp_path / "drawing.jsonl"
    image = str(world / "classes/red/0.png")
    thoughts.write_text(json.dumps({"question": "blood", "reasoning": "it is red", "image": image}) + "\n")
    source = SourceConfig(kind="cot", task="r2i", path=str(thoughts))
    r2i = {"r2i": ModalityConfig(batch_size=1, sources={"drawing": source})} if thinks else {}
    trainer = make_trainer(stage(world, tiny_unified_folder, **r2i), tmp_path / "checkpoints")
    trainer.workers.worker.export(tmp_path / "policy")  # type: ignore[attr-defined]
    assert load_config(str(tmp_path / "policy")).max_text_tokens == (40 if thinks else None)


def test_the_loss_falls(world, tiny_unified_folder, tmp_path):
    config = stage(world, tiny_unified_folder, train=StageTrainConfig(num_steps=30, micro_batch_size=4))
    output = Recorder()
    summary = make_trainer(config, tmp_path).fit(output)
    before, after = (summary["eval"][when]["validation/t2i_nats_per_token"] for when in ("before", "after"))
    assert after < before - 0.2


def test_a_resumed_stage_equals_one_that_was_never_stopped(whole, world, tiny_unified_folder, tmp_path):
    config = stage(world, tiny_unified_folder)
    config = dataclasses.replace(config, ckpt=dataclasses.replace(config.ckpt, save_steps=2))
    killed = make_trainer(config, tmp_path)
    real = killed.workers.worker.train_step  # type: ignore[attr-defined]

    class Killed(Exception):
        pass

    def dies(self, step):
        if step == 3:
            raise Killed
        return real(step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DenoisingWorker, "train_step", dies)
        with pytest.raises(Killed):
            killed.fit(Recorder())
    output, resumed = Recorder(), make_trainer(config, tmp_path)
    assert resumed.resume() == 2
    resumed.fit(output)
    trainer, straight, _ = whole
    assert "broken/mmu/vqa" in straight.rows[2], "counts of broken samples also continue"
    assert output.untimed == {k: v for k, v in straight.untimed.items() if k > 2}
    assert all(torch.equal(v, weights(trainer)[k]) for k, v in weights(resumed).items())


def test_loader_processes_change_nothing_and_count_what_is_broken(world, tiny_unified_folder, tmp_path):
    rows = []
    for num_workers in (0, 2):
        train = StageTrainConfig(num_steps=2, micro_batch_size=2, num_loader_workers=num_workers)
        config = stage(world, tiny_unified_folder, train=train, validation=ValidationConfig(num_rows=0))
        output = Recorder()
        make_trainer(config, tmp_path / str(num_workers)).fit(output)
        rows.append(output.untimed)
    assert rows[0] == rows[1]
    assert sum(row.get("broken/mmu/vqa", 0) for row in rows[0].values()) > 0, "a sample without an image was read"
    assert all(row["loss/total"] > 0 for step, row in rows[0].items() if step > 0)


@pytest.mark.slow
def test_an_error_of_a_loader_process_is_as_short_as_without(world, tiny_unified_folder, tmp_path):
    vqa = dataclasses.replace(modalities(world)["mmu"].sources["vqa"], max_bad_fraction=0.0)
    for num_workers in (0, 1):
        config = stage(
            world, tiny_unified_folder, mmu=ModalityConfig(batch_size=16, sources={"vqa": vqa}),
            train=StageTrainConfig(num_steps=1, num_loader_workers=num_workers),
            validation=ValidationConfig(num_rows=0),
        )  # fmt: skip
        with pytest.raises(ValueError, match=r"^source mmu/vqa: 1 of 16 samples cannot be used \(broken image 1\)"):
            make_trainer(config, tmp_path).fit(Recorder())


def test_counts_of_ranks_are_added_and_their_mask_ratios_are_averaged():
    first = {"loss/total": 2.0, "mask_ratio/t2i": 0.2, "tokens/step": 10.0}
    second = {"loss/total": 2.0, "mask_ratio/t2i": 0.6, "tokens/step": 14.0, "broken/t2i/a": 3.0}
    assert step_metrics([first, second]) == {
        "loss/total": 2.0, "mask_ratio/t2i": pytest.approx(0.4), "tokens/step": 24.0, "broken/t2i/a": 3.0,
    }  # fmt: skip


def test_a_source_may_have_its_own_fit(world, tiny_unified_folder, tmp_path):
    wide = Image.new("RGB", (64, 16), "red")
    wide.paste("blue", (24, 0, 40, 16))
    (tmp_path / "a").mkdir()
    wide.save(tmp_path / "a" / "wide.png")
    classes = modalities(world)["t2i"].sources["classes"]
    for fit, is_red in (("", False), ("stretch", True)):
        source = dataclasses.replace(classes, path=str(tmp_path), fit=fit)
        config = stage(world, tiny_unified_folder, t2i=ModalityConfig(batch_size=4, sources={"classes": source}))
        worker = make_trainer(config, tmp_path / "out").workers.worker  # type: ignore[attr-defined]
        pixels = worker.corpus.read("t2i", [0])[0].pixels
        assert (pixels[0, 8, 0] > 240).item() == is_red, fit


def test_untrained_end_padding_is_neither_attended_to_nor_counted(world, tiny_unified_folder, tmp_path):
    tokens = []
    for trained in (True, False):
        config = stage(world, tiny_unified_folder, noise=NoiseConfig(train_end_padding=trained))
        worker = make_trainer(config, tmp_path).workers.worker  # type: ignore[attr-defined]
        rows = worker.noiser.noised("mmu", worker.corpus.read("mmu", range(4)), "train")
        tokens.append((int(rows.token_mask.sum()), rows.answer_length.tolist()))
    assert tokens[0][0] > tokens[1][0]
    # The newline after the header, the letters of the colour, the end of the turn and end-of-text.
    assert all(3 + 3 <= length <= 5 + 3 for length in tokens[1][1])


def test_images_and_texts_are_written(whole, world, tiny_unified_folder, tmp_path):
    config = stage(world, tiny_unified_folder, run_dir=str(tmp_path / "run"))
    output = RunDirectory(config, 0)
    output.rollouts(4, [row for step, row in whole[1].samples if step == 4])
    output.images(4, whole[1].grids[4])
    output.close()
    for name in ("images", "reconstructions"):
        grid = np.asarray(Image.open(tmp_path / "run" / name / "step_00000004.png"))
        assert grid.std() > 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["task"]) for line in lines] == [("eval", "t2i"), ("eval", "mmu"), ("eval", "text")]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["eval/images", "eval/reconstructions"]
    assert events.Tags()["tensors"] == ["eval/samples/text_summary"]


def test_the_check_of_a_stage_returns_its_sources_and_longest_row(world, tiny_unified_folder):
    inputs = check_stage(stage(world, tiny_unified_folder))
    assert inputs.sizes["t2i"] == {"t2i/classes": 12}
    assert max(inputs.rows.values()) == 40 + 16 + 3
    assert len(inputs.validation_prompts) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": ImageConfig(tokenizer="nowhere", resolution=16)}, "nowhere"),
        ({"image": ImageConfig(tokenizer="TOKENIZER", resolution=18)}, "resolution 18 is no multiple of 4"),
        (
            {"validation": ValidationConfig(image=ImageSamplingConfig(num_image_tokens=9, num_denoising_steps=2))},
            r"num_image_tokens is 9, but image.resolution 16 makes 16",
        ),
        ({"t2i": ModalityConfig(batch_size=2)}, r"t2i.batch_size is 2, but t2i.sources is empty"),
        ({"actor": ActorConfig(num_gpus_per_node=3)}, "t2i.batch_size 4 does not divide over 3 ranks"),
    ],
)
def test_contradictory_settings_are_refused(world, tiny_unified_folder, changes, message):
    changes = dict(changes)
    if getattr(changes.get("image"), "tokenizer", "") == "TOKENIZER":
        tokenizer = str(tiny_unified_folder / "image_tokenizer")
        changes["image"] = dataclasses.replace(changes["image"], tokenizer=tokenizer)
    with pytest.raises(ValueError, match=message):
        check_stage(stage(world, tiny_unified_folder, **changes))


def test_every_source_is_checked_before_the_start(world, tiny_unified_folder):
    good = modalities(world)["t2i"].sources["classes"]
    (world / "long.txt").write_text("".join(f"{index}: {'long ' * 20}\n" for index in range(4)))
    long = dataclasses.replace(
        good, captions=CaptionConfig(store="class_name", path=str(world / "long.txt")), weight=0.01
    )
    sources = {"good": good, "all_too_long": long}
    with pytest.raises(ValueError, match=r"t2i/all_too_long: 1 of 12 samples cannot be used \(text too long 1\)"):
        check_stage(stage(world, tiny_unified_folder, t2i=ModalityConfig(batch_size=4, sources=sources)))
    held_out = ValidationConfig(t2i=ModalityConfig(sources={"all_too_long": long}))
    with pytest.raises(ValueError, match="t2i/all_too_long"):
        check_stage(stage(world, tiny_unified_folder, validation=held_out))


def test_a_stage_without_modalities_or_with_a_foreign_source_is_refused(world):
    with pytest.raises(ValueError, match="no modality has a batch_size"):
        StageConfig()
    wrong = ModalityConfig(batch_size=2, sources=modalities(world)["mmu"].sources)
    with pytest.raises(ValueError, match=r"lm.sources.vqa: task 'mmu', expected one of \['lm'\]"):
        StageConfig(lm=wrong)
