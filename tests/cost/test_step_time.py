"""Compares the operations of a step with torch's counter, and tests the plans of the 8B configs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer

from unigrpo.cli import train, train_stage
from unigrpo.config import (
    AlgoConfig,
    DeepSpeedConfig,
    ImageSamplingConfig,
    KLConfig,
    LoRAConfig,
    RolloutConfig,
    RunConfig,
    TextSamplingConfig,
    TrainConfig,
)
from unigrpo.cost.hardware import KINDS, find_hardware
from unigrpo.cost.memory import ModelSize
from unigrpo.cost.step_time import (
    Lengths,
    StepFlops,
    forward_flops,
    image_flops,
    pass_flops,
    step_seconds,
    text_flops,
    unigrpo_flops,
    whole_step,
)
from unigrpo.data.layouts import t2i_unconditional_prompt
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling.image import sample_images
from unigrpo.models.sampling.text import sample_text
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.workers.flop_meter import FlopMeter

CONFIGS = Path(__file__).parents[2] / "launch" / "configs" / "mmada_8b"
SMALL = MMadaConfig(d_model=64, n_layers=3, n_heads=4, mlp_hidden_size=160, vocab_size=96)
COMMANDS = {
    "unigrpo": train.run,
    "unigrpo_gsm8k": train.run,
    "unigrpo_lora": train.run,
    "stage1_1": train_stage.pretrain,
    "stage1_2": train_stage.pretrain,
    "stage1_3": train_stage.pretrain,
    "stage2_1": train_stage.mixcot,
    "stage2_2": train_stage.mixcot,
}


@pytest.mark.parametrize("num_read", [0, 5, 40])
def test_a_forward_pass_costs_what_torch_counts(num_read):
    model = MMadaModelLM(SMALL)
    positions = torch.zeros(2, 40, dtype=torch.bool)
    positions[:, :num_read] = True
    # The counter counts attention only if it consists of matrix products.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(torch.zeros(2, 40, dtype=torch.long), positions=positions)
    expected = 2 * forward_flops(ModelSize.of(SMALL, LoRAConfig()), 40, num_read)
    assert counter.get_total_flops() == expected


def test_sampling_with_the_8b_model_has_the_operations_of_a_calculation_by_hand():
    """512 tokens x 128 passes x 16 GFLOP are 1.05 PFLOP: 121 tokens a second at half of 989 TFLOP/s.

    This count has the head and the whole last layer at every token. We compute them only for tokens that are read.
    """
    model = ModelSize.of(MMadaConfig(), LoRAConfig())
    flops = text_flops(model, Lengths(prompt=256, response=256), TextSamplingConfig())
    assert flops == pytest.approx(1.05e15, rel=0.14)
    assert 256 / (flops / (0.5 * 989e12)) == pytest.approx(121, rel=0.15)


def seconds_of(work: StepFlops, gpu: str, num_gpus: int, mfu: float = 0.4, **more: Any) -> dict[str, float]:
    stage, overlap = more.pop("zero_stage", 2), more.pop("overlap", False)
    dtype = "bf16" if stage == 1 else "fp32"  # type in which gradients are added up
    config = RunConfig(ds=DeepSpeedConfig(zero_stage=stage, overlap_comm=overlap, grad_accum_dtype=dtype))
    return step_seconds(work, config, ModelSize.of(MMadaConfig(), LoRAConfig()), KINDS[gpu], num_gpus, mfu=mfu, **more)


def test_twice_the_gpus_halve_the_arithmetic_but_not_the_network():
    work = StepFlops(generate=1e18, score=1e17, update=2e17)
    eight, sixteen = (seconds_of(work, "h100_80gb", n) for n in (8, 16))
    for role in ("generate", "score", "update"):
        assert sixteen[role] == pytest.approx(eight[role] / 2)
    assert sixteen["gradients"] > eight["gradients"]
    assert seconds_of(work, "h100_80gb", 1)["gradients"] == pytest.approx(0, abs=1e-6)


def test_gradients_are_reduced_after_every_pass_or_once():
    """A ring sends gradients (32.33 GB in fp32, 16.165 in bf16) twice and weights (16.165 GB) once: 7/8 of them at 450
    GB/s within a node, and 63/64 at 8 x 50 GB/s between nodes."""
    nothing = StepFlops(generate=0.0, score=0.0, update=0.0)
    node = seconds_of(nothing, "h100_80gb", 8, zero_stage=2, num_passes=12, num_updates=4)["gradients"]
    assert node == pytest.approx(4 * (2 * 12 * 32.33 + 16.165) * 7 / 8 / 450, rel=1e-3)
    once = seconds_of(nothing, "h100_80gb", 64, zero_stage=1, num_passes=12)["gradients"]
    assert once == pytest.approx(3 * 16.165 * 63 / 64 / 400, rel=1e-3)
    slow = dataclasses.replace(KINDS["h100_80gb"], nics=2, nic_gb=25)
    assert slow.ring_gb(64) == 50
    assert slow.ring_gb(8) == 450


def test_an_overlapping_reduction_takes_no_time_beyond_the_backward_passes():
    long, short = (StepFlops(generate=0.0, score=0.0, update=flops) for flops in (1e18, 1e15))
    gathering = 16.165 * 7 / 8 / 450
    assert seconds_of(long, "h100_80gb", 8, num_passes=12, overlap=True)["gradients"] == pytest.approx(
        gathering, rel=1e-3
    )
    apart = seconds_of(short, "h100_80gb", 8, num_passes=12)
    hidden = apart["gradients"] - seconds_of(short, "h100_80gb", 8, num_passes=12, overlap=True)["gradients"]
    assert hidden == pytest.approx(2 / 3 * apart["update"])


def test_rollout_workers_generate_and_overlap_with_training_if_they_are_a_step_ahead():
    work = StepFlops(generate=4e18, score=1e18, update=2e18)
    alone = seconds_of(work, "h200", 8, 0.5)
    helped = seconds_of(work, "h200", 8, 0.5, num_rollout_gpus=16)
    assert helped["generate"] == pytest.approx(alone["generate"] / 2)
    assert helped["update"] == alone["update"]
    # 16.2 GB over one network card with 50 GB/s
    assert helped["sync"] == pytest.approx(16.165 / 50, rel=1e-3)
    rest = helped["score"] + helped["update"] + helped["gradients"]
    assert whole_step(helped, 0) == pytest.approx(helped["generate"] + rest + helped["sync"])
    assert whole_step(helped, 1) == pytest.approx(max(helped["generate"], rest) + helped["sync"])


def test_the_plan_shows_the_rollout_workers(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["--config", str(CONFIGS / "unigrpo.yaml"), "--dry_run", "--gpu", "h200"]
    assert train.run([*command, "--rollout.num_workers", "8", "--rollout.max_staleness", "1"]) == 0
    text = capsys.readouterr().out
    assert "8 rollout workers" in text
    assert "GB on each of 8 rollout GPUs" in text
    assert "gradients      sync   rewards      step" in text


def test_the_plan_counts_the_chosen_tasks_and_refuses_tasks_without_a_reward(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["--config", str(CONFIGS / "unigrpo.yaml"), "--dry_run", "--gpu", "h200", "--data.tasks"]
    assert train.run([*command, "[text]"]) == 0
    assert "assumed: 100% text, half" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"data.tasks is \['r2i'\], but reward.terms score only .*'t2i'.*; add"):
        train.run([*command, "[r2i]"])


def test_rollout_workers_that_cannot_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["--config", str(CONFIGS / "unigrpo.yaml"), "--dry_run", "--gpu", "h200", "--rollout.num_workers", "8"]
    with pytest.raises(
        ValueError, match=r"a rollout worker needs .* GB; h200 has .* smaller rollout.micro_batch_size"
    ):
        train.run([*command, "--actor.num_nodes", "8", "--rollout.micro_batch_size", "4096"])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_plan_of_a_shipped_8b_config_needs_neither_weights_nor_cluster(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = str(CONFIGS / f"{name}.yaml")
    assert COMMANDS[name](["--config", config, "--dry_run", "--gpu", "h200"]) == 0
    text = capsys.readouterr().out
    for part in (
        "not on this machine; assumed to be MMaDA-8B, 8,",
        "GB on each",
        "(h200)",
        "<- this run",
        "whole run ",
        "GB for a checkpoint",
        "downloads ",
        "first ",
        "not checked",
    ):
        assert part in text
    assert text.count("\n            ") >= 4, "a row for each number of GPUs"


def test_what_cannot_fit_is_refused_with_what_to_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["--config", str(CONFIGS / "unigrpo.yaml"), "--dry_run", "--actor.num_gpus_per_node", "2"]
    with pytest.raises(ValueError, match=r"needs .* GB on each GPU, most of it for optimizer .*ds\.zero_stage 3"):
        train.run([*command, "--gpu", "a100_40gb"])


@pytest.mark.parametrize(
    ("flag", "value", "message"), [("--gpu", "h1", "invalid choice: 'h1'"), ("--mfu", "0", "--mfu is 0")]
)
def test_wrong_assumptions_are_refused(flag, value, message):
    with pytest.raises(ValueError, match=message):
        train.run(["--config", str(CONFIGS / "unigrpo.yaml"), "--dry_run", flag, value])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_default_kind_is_planned_for():
    assert find_hardware("auto").name == "h100_80gb"


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_the_planned_operations_of_sampling_are_those_that_are_counted(cache, tiny_model_folder):
    model = MMadaModelLM.from_pretrained(tiny_model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    settings = TextSamplingConfig(
        max_new_tokens=24, num_denoising_steps=12, block_length=8, cache=cache, stop_at_end_of_text=False
    )
    meter = FlopMeter(model, LoRAConfig())
    sample_text(
        model,
        [torch.arange(60, 75)] * 3,
        settings,
        Vocabulary.from_pretrained_parts(model.config, tokenizer),
        generators=[torch.Generator().manual_seed(i) for i in range(3)],
    )
    size = ModelSize.of(model.config, LoRAConfig())
    predicted = 3 * text_flops(size, Lengths(prompt=15, response=24), settings)
    assert meter.flops == pytest.approx(predicted, rel=1e-9)


@pytest.mark.parametrize("cache", ["none", "text"])
@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_the_planned_operations_of_images_are_about_those_that_are_counted(cache, guidance, tiny_unified_folder):
    model = MMadaModelLM.from_pretrained(tiny_unified_folder).eval()
    vocabulary = Vocabulary.from_pretrained_parts(model.config, AutoTokenizer.from_pretrained(tiny_unified_folder))
    settings = ImageSamplingConfig(num_image_tokens=64, num_denoising_steps=8, guidance_scale=guidance, cache=cache)
    meter = FlopMeter(model, LoRAConfig())
    sample_images(
        model,
        [torch.arange(60, 75)] * 3,
        settings,
        vocabulary,
        generators=[torch.Generator().manual_seed(i) for i in range(3)],
        unconditional=[t2i_unconditional_prompt(vocabulary)] * 3,
    )
    size = ModelSize.of(model.config, LoRAConfig())
    predicted = 3 * image_flops(size, Lengths(prompt=15, response=64), settings, 32)
    # The head reads fewer positions in each step, and it is a large part of this small model.
    assert meter.flops == pytest.approx(predicted, rel=0.08)


def test_scored_guidance_adds_the_unconditional_rows():
    model, tokens = ModelSize.of(MMadaConfig(), LoRAConfig()), {"t2i": 50, "text": 50}
    image = ImageSamplingConfig(guidance_scale=3.0)
    plain, guided = (
        RunConfig(rollout=RolloutConfig(image=dataclasses.replace(image, score_guided=scored)))
        for scored in (False, True)
    )
    flops = [unigrpo_flops(config, model, tokens, 256, {"t2i": 1.0}, 8192) for config in (plain, guided)]
    passes = guided.num_samples_per_step * guided.train.num_inner_updates
    more = passes * sum(pass_flops(model, 261, 261**2, 128, 128 * 8192))
    assert flops[1].update - flops[0].update == pytest.approx(3 * more)
    assert flops[1].score - flops[0].score == pytest.approx(2 * more), "by the old policy and by the reference"
    assert flops[1].generate == flops[0].generate
    texts = [unigrpo_flops(config, model, tokens, 256, {"text": 1.0}, 8192) for config in (plain, guided)]
    assert texts[0] == texts[1]


def test_with_the_exact_kl_the_base_runs_in_the_update_and_no_reference_before_it():
    model, tokens = ModelSize.of(MMadaConfig(), LoRAConfig(rank=8)), {"text": 50}
    sampled, exact = (
        RunConfig(
            algo=AlgoConfig(kl=KLConfig(init_coef=0.01, estimator=name)), ds=DeepSpeedConfig(lora=LoRAConfig(rank=8))
        )
        for name in ("k3", "exact")
    )
    before, after = (unigrpo_flops(config, model, tokens, 256, {"text": 1.0}, 8192) for config in (sampled, exact))
    assert after.score == before.score / 2
    row, half = 50 + exact.rollout.text.max_new_tokens, exact.rollout.text.max_new_tokens / 2
    layers, head = pass_flops(model, row, row**2, half, half * model.vocabulary_size)
    passes = exact.num_samples_per_step * exact.train.num_inner_updates
    assert after.update - before.update == pytest.approx(passes * (layers + 2 * head))


def test_a_step_of_several_tasks_adds_up_and_thoughts_come_before_their_image():
    model = ModelSize.of(MMadaConfig(), LoRAConfig())
    config = RunConfig()
    tokens = {"text": 50, "t2i": 50, "r2i": 50}
    each = {task: unigrpo_flops(config, model, tokens, 256, {task: 1.0}, 8192) for task in tokens}
    mixed = unigrpo_flops(config, model, tokens, 256, dict.fromkeys(tokens, 1 / 3), 8192)
    for role in ("generate", "score", "update"):
        assert getattr(mixed, role) == pytest.approx(sum(getattr(e, role) for e in each.values()) / 3)
    behind = unigrpo_flops(config, model, {"t2i": 50 + config.rollout.text.max_new_tokens}, 256, {"t2i": 1.0}, 8192)
    seen = Lengths(prompt=50, response=config.rollout.text.max_new_tokens + 256)  # thoughts, before the masked image
    thoughts = config.num_samples_per_step * text_flops(model, seen, config.rollout.text)
    assert each["r2i"].generate == pytest.approx(thoughts + behind.generate)
    # Old policy and reference score each inner update, whose forward and backward pass costs three such passes.
    assert each["text"].update == pytest.approx(1.5 * each["text"].score)
    apart = dataclasses.replace(config, train=TrainConfig(colocate_actor_ref=False))
    assert unigrpo_flops(apart, model, tokens, 256, {"text": 1.0}, 8192).score == each["text"].score / 2
