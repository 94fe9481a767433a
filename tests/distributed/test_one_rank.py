"""Tests the DeepSpeed engine on one rank in bfloat16: sums of gradients in float32, and adapters that are not
rounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad
from torch import Tensor
from training.small_updates import SETTINGS, rollout, run_config, small_model

from unigrpo.config import ActorConfig, DeepSpeedConfig, KLConfig, LoRAConfig, RolloutConfig, RunConfig
from unigrpo.distributed.engine import StrategyEngine
from unigrpo.distributed.strategy import make_strategy
from unigrpo.models.checkpoint_io import load_policy
from unigrpo.models.lora import add_lora, without_lora
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.records import TrainSample
from unigrpo.training.unigrpo import unigrpo_updates

NUM_PASSES, LENGTH = 64, 24
TOKENS = torch.randint(3, 40, (NUM_PASSES, LENGTH), generator=torch.Generator().manual_seed(0))


def model() -> MMadaModelLM:
    torch.manual_seed(0)
    config = MMadaConfig(d_model=32, n_layers=1, n_heads=2, mlp_hidden_size=48, vocab_size=40, mask_token_id=1)
    return MMadaModelLM(config).bfloat16()


def loss(forward: Any, number: int) -> Tensor:
    tokens = TOKENS[number]
    everywhere = torch.ones(1, LENGTH, dtype=torch.bool)
    return -forward(tokens[None], positions=everywhere, targets=tokens).log_probs.mean() / NUM_PASSES


def error_of_the_sum(stage: Literal[2, 3], dtype: Literal["fp32", "bf16"]) -> float:
    """Returns the error of the gradient of the engine relative to the float64 sum of the bfloat16 gradients of the
    passes."""
    alone = model()
    expected = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in alone.named_parameters()}
    for number in range(NUM_PASSES):
        for name, found in zip(
            expected, torch.autograd.grad(loss(alone, number), list(alone.parameters())), strict=True
        ):
            expected[name] += found
    config = RunConfig(
        actor=ActorConfig(max_norm=0.0),
        rollout=RolloutConfig(batch_size=1, n_samples_per_prompt=NUM_PASSES),
        ds=DeepSpeedConfig(zero_stage=stage, param_dtype="bf16", grad_accum_dtype=dtype),
    )
    strategy = make_strategy(config)
    strategy.setup_distributed()
    engine = StrategyEngine(model(), config, strategy)
    for number in range(NUM_PASSES):
        engine.backward(loss(engine.forward, number))
    if stage == 2:
        engine._engine.optimizer.finalize_gradient_accumulation_boundary()
    square = torch.zeros(2, dtype=torch.float64)
    for name, parameter in engine.model.named_parameters():
        full = safe_get_full_grad(parameter)
        assert full is not None
        found = full.double()
        square += torch.stack([(found - expected[name]).square().sum(), expected[name].square().sum()])
    return float((square[0] / square[1]).sqrt())


@pytest.mark.parametrize("stage", [2, 3])
def test_gradients_are_added_up_in_float32(one_rank: None, stage: Literal[2, 3]) -> None:
    assert error_of_the_sum(stage, "fp32") < 1e-6


def test_in_bfloat16_the_sum_is_rounded_after_every_pass(one_rank: None) -> None:
    assert 1e-3 < error_of_the_sum(2, "bf16") < 2e-2


@pytest.mark.parametrize("stage", [2, 3])
def test_a_step_without_an_advantage_or_a_kl_is_made(one_rank: None, stage: Literal[2, 3]) -> None:
    """If all samples of the first step have the same reward, nothing is scored and the weights do not change."""
    config = replace(run_config("unigrpo", num_inner_updates=2), ds=DeepSpeedConfig(zero_stage=stage))
    config = replace(config, algo=replace(config.algo, tasks={}, kl=KLConfig(init_coef=0.0)))
    strategy = make_strategy(config)
    strategy.setup_distributed()
    engine = StrategyEngine(small_model().bfloat16(), config, strategy)
    samples = [TrainSample(rollout=rollout("text", number), advantages=(0.0,), is_valid=True) for number in range(4)]
    before = [weight.clone() for weight in engine.trained_weights()]
    metrics = unigrpo_updates(engine, config, SETTINGS, samples)
    assert (metrics["grad_norm"], metrics["update/skipped"]) == (0.0, 0.0)
    assert all(torch.equal(*pair) for pair in zip(before, engine.trained_weights(), strict=True))


def test_under_zero3_the_copy_that_generates_is_the_model_that_is_trained(one_rank: None, tmp_path: Path) -> None:
    """If adapters of 3e-4 were merged into weights of 0.02 in bfloat16, most of their effect would be lost."""
    lora = LoRAConfig(rank=4, alpha=4)
    config = RunConfig(ds=DeepSpeedConfig(zero_stage=3, param_dtype="bf16", lora=lora))
    strategy = make_strategy(config)
    strategy.setup_distributed()
    policy = model()
    add_lora(policy, lora)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=3e-4)
    engine = StrategyEngine(policy, config, strategy)
    engine.model.eval()

    def log_probs(forward: Any) -> Tensor:
        with torch.no_grad():
            return forward(TOKENS[:8]).logits.float().log_softmax(-1)

    trained = log_probs(engine.forward)
    with without_lora(engine.model):
        base = log_probs(engine.forward)
    with engine.whole_model() as whole:
        assert torch.equal(log_probs(whole), trained)
    assert not torch.equal(base, trained)

    engine.export(tmp_path)
    exported = load_policy(tmp_path, torch.float32, "sdpa").state_dict()
    change = square = 0.0
    for name, weight in model().state_dict().items():  # the weights of the base model
        layer = name.removesuffix(".weight")
        adapters = [p for n, p in policy.named_parameters() if n.startswith(f"{layer}.lora")]
        moved = exported[name] - weight.float()
        if not adapters:
            assert (moved == 0).all()
            continue
        parts = [full for p in adapters if (full := safe_get_full_fp32_param(p)) is not None]
        down, up = parts if parts[0].shape[0] == lora.rank else parts[::-1]
        wanted = up.bfloat16().double() @ down.bfloat16().double()
        change += float((moved - wanted).square().sum())
        square += float(wanted.square().sum())
    assert square > 0
    assert (change / square) ** 0.5 < 1e-3  # it is 0.7 if the sum is rounded to bfloat16
