"""Compares disk space, downloads and rewards of a run with numbers by hand, and tests how the plan prints them."""

from __future__ import annotations

import dataclasses

import pytest

from unigrpo.cli.plan_run import (
    PromptFractions,
    advice_line,
    assumed_fractions,
    check_disk,
    disk_lines,
    prompt_fractions,
    reward_times,
    waiting_seconds,
    whole_run_lines,
)
from unigrpo.config import (
    ActorConfig,
    CheckpointConfig,
    DataConfig,
    DeepSpeedConfig,
    EvalConfig,
    LoRAConfig,
    PromptFileConfig,
    RewardConfig,
    RewardTermConfig,
    RolloutConfig,
    RunConfig,
    TextSamplingConfig,
    TrainConfig,
)
from unigrpo.cost import downloads as downloads_module
from unigrpo.cost.disk import DiskPlan, disk_plan, free_gb
from unigrpo.cost.downloads import downloads
from unigrpo.cost.evaluation import evaluation_flops
from unigrpo.cost.hardware import KINDS
from unigrpo.cost.memory import ModelSize, Rows, memory_plan
from unigrpo.cost.step_time import Lengths, image_flops, text_flops
from unigrpo.models.mmada import MMadaConfig
from unigrpo.records import Prompt

EIGHT_B = ModelSize.of(MMadaConfig(), LoRAConfig())


def test_a_checkpoint_of_8b_has_weights_and_twelve_bytes_of_optimizer():
    plan = disk_plan(RunConfig(), EIGHT_B)
    assert plan.checkpoint_gb == pytest.approx(8.08269 * (2 + 12), rel=1e-4)  # 113 GB
    assert (plan.num_checkpoints, plan.policy_gb) == (4, pytest.approx(16.165, rel=1e-3))
    assert plan.peak_gb == pytest.approx(4 * plan.checkpoint_gb + plan.policy_gb)
    exporting = RunConfig(ckpt=CheckpointConfig(max_num=1, best_metric_key="", export_steps=5))
    small = disk_plan(exporting, EIGHT_B)
    assert (small.num_checkpoints, small.policy_gb) == (2, pytest.approx(2 * 16.165, rel=1e-3))


def test_adapters_alone_have_an_optimizer_and_are_merged_in_the_policy():
    lora = LoRAConfig(rank=8)
    plan = disk_plan(RunConfig(ds=DeepSpeedConfig(lora=lora)), ModelSize.of(MMadaConfig(), lora))
    adapters = 32 * 8 * (4 * (4096 + 4096) + 3 * (4096 + 12288))
    assert plan.checkpoint_gb == pytest.approx((2 * 8_082_690_048 + 14 * adapters) / 1e9)
    assert plan.policy_gb == pytest.approx(2 * 8.08269, rel=1e-5)


def test_a_disk_that_is_too_small_is_refused_or_warned_of(tmp_path):
    config = RunConfig(run_dir=str(tmp_path / "not" / "there"))
    free = free_gb(tmp_path)
    assert check_disk(config, DiskPlan(checkpoint_gb=1e-6, num_checkpoints=4, policy_gb=0.0)) == ""
    large = DiskPlan(checkpoint_gb=free / 3, num_checkpoints=4, policy_gb=0.0)
    assert "the run needs up to" in check_disk(config, large)
    with pytest.raises(
        ValueError, match=r"but a checkpoint and the policy need .* GB; free some space, or set ckpt.path"
    ):
        check_disk(config, dataclasses.replace(large, checkpoint_gb=free * 2))
    assert any("NOT ENOUGH" in line for line in disk_lines(config, large, free))
    assert not any("NOT ENOUGH" in line for line in disk_lines(config, large, 1e9))


def test_only_missing_files_are_downloaded(tmp_path, monkeypatch):
    class Cache:
        class Repo:
            repo_id = "showlab/magvitv2"

        repos = (Repo,)

    monkeypatch.setattr(downloads_module, "scan_cache_dir", lambda: Cache)
    config = RunConfig(
        actor=ActorConfig(model_name_or_path="Gen-Verse/MMaDA-8B-MixCoT"),
        data=DataConfig(prompt_dataset=f"openai/gsm8k:main,{tmp_path},data/rl/a.jsonl"),
        reward=RewardConfig(
            terms=(RewardTermConfig(name="clip_score", options={"model": "me/clip", "scale": "cosine"}),)
        ),
    )
    config = dataclasses.replace(config, image=dataclasses.replace(config.image, tokenizer="showlab/magvitv2"))
    found = {one.name: (one.gigabytes, one.is_cached) for one in downloads(config)}
    assert found == {
        "Gen-Verse/MMaDA-8B-MixCoT": (16.2, False), "showlab/magvitv2": (0.4, True), "me/clip": (None, False),
        "openai/gsm8k": (0.01, False),
    }  # fmt: skip


def config_of(*terms, **changes):
    return RunConfig(
        rollout=RolloutConfig(batch_size=8, n_samples_per_prompt=4),
        actor=ActorConfig(num_gpus_per_node=8),
        reward=RewardConfig(terms=terms),
        **changes,
    )


def test_fractions_of_prompts_follow_from_weights_of_files_and_gold_answers():
    files = (PromptFileConfig(path="a", weight=3.0), PromptFileConfig(path="b", weight=1.0))
    terms = (
        RewardTermConfig(name="math_answer", only="with_gold"),
        RewardTermConfig(name="clip_score", tasks=("mmu",)),
    )
    config = config_of(*terms, data=DataConfig(prompt_dataset=files))
    prompts = [Prompt(id="1", text="x", label="1", dataset="a"), Prompt(id="2", text="x", dataset="b", task="mmu"),
               Prompt(id="3", text="x", label="1", dataset="b", task="mmu")]  # fmt: skip
    fractions = prompt_fractions(config, prompts)
    assert fractions.tasks == {"text": 0.75, "mmu": 0.25}
    assert fractions.rewards == {"math_answer": 0.875, "clip_score": 0.25}
    even = prompt_fractions(config_of(*terms, data=DataConfig(prompt_dataset="a,b")), prompts)
    assert even.tasks == pytest.approx({"text": 1 / 3, "mmu": 2 / 3})


def test_assumed_fractions_of_prompts_are_those_of_files_with_a_task_and_a_weight():
    files = (PromptFileConfig(path="a", task="text", weight=3.0), PromptFileConfig(path="b", task="t2i", weight=1.0))
    config = config_of(RewardTermConfig(name="math_answer"), data=DataConfig(prompt_dataset=files))
    assert assumed_fractions(config, ["text", "t2i"]).tasks == {"text": 0.75, "t2i": 0.25}
    unknown = config_of(RewardTermConfig(name="math_answer"), data=DataConfig(prompt_dataset="a,b"))
    assert assumed_fractions(unknown, ["text", "t2i"]).tasks == {"text": 0.5, "t2i": 0.5}


def test_rewards_use_cpus_or_gpus_of_the_policy_and_only_the_wait_after_scoring_counts():
    on_cpus, on_gpus = (RewardTermConfig(name="clip_score", on_policy_gpus=flag) for flag in (False, True))
    fractions = PromptFractions(tasks={"t2i": 1.0}, rewards={"clip_score": 0.5})
    slow = reward_times(config_of(on_cpus), fractions, KINDS["h100_80gb"], 0.4, 8)["clip_score"]
    assert slow.samples == 16 and slow.seconds_per_sample == pytest.approx(2.3, rel=0.02)
    assert slow.num_processes == 2  # 16 x 2.3 s within 30 s
    fast = reward_times(config_of(on_gpus), fractions, KINDS["h100_80gb"], 0.4, 8)["clip_score"]
    assert fast.num_processes == 8
    assert fast.seconds == pytest.approx(16 / 8 * 1.7e11 / (989e12 * 0.4))
    assert waiting_seconds({"clip_score": slow}, 5.0) == pytest.approx(slow.seconds - 5)
    assert waiting_seconds({"clip_score": fast}, 5.0) == 0
    late = RewardTermConfig(name="clip_score", batch_size=64, timeout_seconds=20)
    with pytest.raises(
        ValueError, match=r"clip_score needs about 2.3 s .* a call of 64 misses its timeout_seconds 20"
    ):
        reward_times(config_of(late), fractions, KINDS["h100_80gb"], 0.4, 8)


def test_rewards_on_the_policys_gpus_count_in_its_memory():
    config = config_of(RewardTermConfig(name="clip_score", on_policy_gpus=True))
    assert memory_plan(config, EIGHT_B, Rows(longest=100)).gpu["rewards"] == pytest.approx(2.7)
    assert "rewards" not in memory_plan(config_of(RewardTermConfig(name="clip_score")), EIGHT_B, Rows(longest=100)).gpu


def test_an_evaluation_costs_its_own_lengths_for_every_sample():
    text = TextSamplingConfig(max_new_tokens=64, num_denoising_steps=8, block_length=32)
    config = config_of(
        RewardTermConfig(name="math_answer"), eval=EvalConfig(dataset="a", text=text, n_samples_per_prompt=2)
    )
    one = text_flops(EIGHT_B, Lengths(prompt=100, response=64), text)
    assert evaluation_flops(config, EIGHT_B, {"text": 5}, {"text": 100}, 256, 8192) == pytest.approx(15 * one)
    drawn = image_flops(EIGHT_B, Lengths(prompt=100, response=256), config.rollout.image, 8192)
    both = evaluation_flops(config, EIGHT_B, {"text": 5, "t2i": 1}, {"text": 100, "t2i": 100}, 256, 8192)
    assert both == pytest.approx(15 * one + 3 * drawn)


def test_the_time_of_the_whole_run_is_in_hours_or_days_and_includes_evaluations():
    config = config_of(
        RewardTermConfig(name="math_answer"),
        train=TrainConfig(num_steps=1000),
        eval=EvalConfig(dataset="a", steps=100),
    )
    run, evaluations = whole_run_lines(config, 18.0, 60.0)
    assert "1000 steps x 18.0 s = 5.0 hours" in run and "11 evaluations x 60 s = 11.0 minutes" not in evaluations
    assert "11 evaluations x 60 s = 0.2 hours" in evaluations
    assert "10.0 days" in whole_run_lines(config, 864.0, 0.0)[0]


@pytest.mark.parametrize(
    ("seconds", "free", "advice"),
    [
        ({"generate": 8.0, "score": 2.0}, 1e9, "generate takes 80% of a step: rollout.text.cache dual"),
        ({"generate": 1.0, "rewards": 3.0}, 1e9, "rewards takes 75% of a step: on_policy_gpus"),
        ({"generate": 1.0, "gradients": 3.0}, 1e9, "gradients takes 75% of a step: a larger batch"),
        (
            {"generate": 1.0, "update": 3.0},
            1e9,
            "update takes 75% of a step: fewer train.num_inner_updates, more GPUs",
        ),
        ({"generate": 1.0}, 0.0, "first       a larger disk (see above); then generate takes 100%"),
    ],
)
def test_the_largest_part_is_what_to_change_first(seconds, free, advice):
    config = config_of(RewardTermConfig(name="math_answer"))
    assert advice in advice_line(config, seconds, disk_plan(config, EIGHT_B), free)
