"""Compares the memory plan with the published sizes of the 8B model."""

from typing import Literal

import pytest

from unigrpo.config import (
    ActorConfig,
    AlgoConfig,
    DeepSpeedConfig,
    ImageConfig,
    ImageSamplingConfig,
    KLConfig,
    LoRAConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from unigrpo.cost.memory import ModelSize, Rows, memory_plan, zero_buffers_gb
from unigrpo.models.mmada import MMadaConfig

MMADA_8B = ModelSize(
    num_parameters=8_082_690_048,
    num_layers=32,
    width=4096,
    mlp_width=12_288,
    kv_width=4096,
    vocabulary_size=134_656,
    num_trainable=8_082_690_048,
)


def plan(*, ranks=8, zero_stage: Literal[0, 2, 3] = 3, adam_offload=False, beta=0.01):
    config = RunConfig(
        rollout=RolloutConfig(batch_size=64, n_samples_per_prompt=8),
        actor=ActorConfig(num_gpus_per_node=ranks),
        algo=AlgoConfig(kl=KLConfig(init_coef=beta)),
        train=TrainConfig(micro_batch_size=1),
        ds=DeepSpeedConfig(zero_stage=zero_stage, adam_offload=adam_offload),
    )
    return memory_plan(config, MMADA_8B, Rows(longest=384))


def test_training_state_of_the_8b_model_is_18_bytes_per_parameter_before_sharding():
    """A weight has 2 bytes, its gradient 4, and the optimizer 12."""
    gpu = plan(ranks=1, zero_stage=0).gpu
    assert gpu["weights"] + gpu["gradients"] + gpu["optimizer"] == pytest.approx(8.08269 * 18, rel=1e-4)


def test_zero_3_over_eight_ranks_holds_an_eighth_of_it():
    gpu = plan(ranks=8, zero_stage=3).gpu
    assert gpu["weights"] + gpu["gradients"] + gpu["optimizer"] == pytest.approx(8.08269 * 18 / 8, rel=1e-4)


def test_zero_2_keeps_the_weights_whole():
    gpu = plan(ranks=8, zero_stage=2).gpu
    assert gpu["weights"] == pytest.approx(16.165, rel=1e-3)
    assert gpu["gradients"] == pytest.approx(2 * 16.165 / 8, rel=1e-3)


def test_a_reduction_in_float32_holds_two_buckets_and_two_copies_of_the_gradient_of_the_head():
    """The head has 134,656 x 4,096 weights, more than the 5e8 of a bucket. Each rank has an eighth of the
    gradients."""
    config = RunConfig(ds=DeepSpeedConfig(zero_stage=2))
    buckets, head, own = 2 * 2 * 0.5, 0.551550976, 8.082690048 / 8
    assert zero_buffers_gb(config, MMADA_8B, ranks=8) == pytest.approx(buckets + (2 + 4) * head + 2 * own)
    narrow = RunConfig(ds=DeepSpeedConfig(zero_stage=2, grad_accum_dtype="bf16", overlap_comm=False))
    assert zero_buffers_gb(narrow, MMADA_8B, ranks=8) == pytest.approx(buckets / 2 + 2 * head + 2 * own)
    sharded = RunConfig(ds=DeepSpeedConfig(zero_stage=3))
    assert zero_buffers_gb(sharded, MMADA_8B, ranks=8) == pytest.approx(4 * 0.5 + 2 * 4 * head + 2 * 1.0)


def test_offloaded_optimizer_states_count_on_the_cpu():
    moved = plan(adam_offload=True)
    assert "optimizer" not in moved.gpu
    assert moved.cpu["optimizer"] == pytest.approx(8.08269 * 12 / 8, rel=1e-4)


def test_no_kl_means_no_reference():
    assert "reference" in plan().gpu
    assert "reference" not in plan(beta=0.0).gpu


@pytest.mark.parametrize(("batch", "least", "most"), [(16, 70, 80), (64, 140, 150)])
def test_a_run_on_images_counts_caches_the_image_tokenizer_and_what_the_reference_computes(batch, least, most):
    """Rows have 512 tokens of prompt, 1,024 of image and an end. Rows of guidance have 5 tokens instead of the
    prompt."""
    image = ImageSamplingConfig(cache="text", guidance_scale=3.5)
    config = RunConfig(
        rollout=RolloutConfig(batch_size=48, n_samples_per_prompt=8, micro_batch_size=batch, image=image),
        actor=ActorConfig(num_gpus_per_node=8, gradient_checkpointing_enable=True),
        algo=AlgoConfig(kl=KLConfig(init_coef=0.01)),
        train=TrainConfig(micro_batch_size=4),
        image=ImageConfig(resolution=512),
    )
    found = memory_plan(config, MMADA_8B, Rows(longest=1792, longest_image=1537, image_tokens=1024))
    keys_and_values = batch * (1537 + 1029) * 32 * 2 * 4096 * 2 / 1e9
    assert keys_and_values < found.gpu["generate"] < 1.1 * keys_and_values
    assert found.gpu["image tokenizer"] == pytest.approx(0.38, rel=0.01)
    assert found.gpu["reference's passes"] == found.gpu["score"] > 1
    always = ("weights", "gradients", "optimizer", "image tokenizer", "reference", "reference's passes", "generate")
    assert found.gpu_total == pytest.approx(sum(found.gpu[name] for name in always)), "generation is the largest phase"
    assert least < found.gpu_total < most


def test_lora_trains_few_weights_and_needs_no_second_copy_of_the_model():
    lora = LoRAConfig(rank=16)
    size = ModelSize.of(MMadaConfig(), lora)
    # 32 layers have rank x (in + out) for q, k, v, attn_out (4096 to 4096) and for three of the MLP (4096, 12288)
    assert size.num_trainable == 32 * 16 * (4 * 2 * 4096 + 3 * (4096 + 12288))
    config = RunConfig(ds=DeepSpeedConfig(zero_stage=2, lora=lora))
    gpu = memory_plan(config, size, Rows(longest=384)).gpu
    assert "reference" not in gpu
    assert gpu["weights"] == pytest.approx((size.num_parameters) * 2 / 1e9)
    assert gpu["gradients"] + gpu["optimizer"] == pytest.approx(size.num_trainable * 16 / 1e9)
