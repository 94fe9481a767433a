"""Compares the memory plan with the memory that DeepSpeed allocates in a backward pass on one rank with a small
bucket."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from cost.fake_memory import LiveBytes

from unigrpo.config import ActorConfig, DeepSpeedConfig, LoRAConfig, RolloutConfig, RunConfig
from unigrpo.cost import memory
from unigrpo.cost.memory import ModelSize, zero_buffers_gb
from unigrpo.distributed.engine import StrategyEngine
from unigrpo.distributed.strategy import UniGRPOStrategy, make_strategy
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM

BUCKET = 200_000
SIZES = MMadaConfig(d_model=64, n_layers=1, n_heads=2, mlp_hidden_size=96, vocab_size=20_000, mask_token_id=1)


@pytest.fixture(autouse=True)
def small_bucket(monkeypatch: pytest.MonkeyPatch, one_rank: None) -> None:
    own = UniGRPOStrategy.get_ds_train_config

    def settings(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        found = own(self, *args, **kwargs)
        found["zero_optimization"]["reduce_bucket_size"] = BUCKET
        return found

    monkeypatch.setattr(UniGRPOStrategy, "get_ds_train_config", settings)
    monkeypatch.setattr(memory, "REDUCE_BUCKET", BUCKET)


@pytest.mark.parametrize(
    ("stage", "dtype", "overlap"),
    [(2, "fp32", True), (2, "fp32", False), (2, "bf16", True), (3, "fp32", True)],
)
def test_the_plan_counts_the_buffers_of_a_reduction(
    stage: Literal[2, 3], dtype: Literal["fp32", "bf16"], overlap: bool
) -> None:
    """There are two passes, and the second adds its gradients to those of the first."""
    config = RunConfig(
        actor=ActorConfig(max_norm=0.0),
        rollout=RolloutConfig(batch_size=1, n_samples_per_prompt=4),
        ds=DeepSpeedConfig(zero_stage=stage, param_dtype="bf16", grad_accum_dtype=dtype, overlap_comm=overlap),
    )
    strategy = make_strategy(config)
    strategy.setup_distributed()
    engine = StrategyEngine(MMadaModelLM(SIZES).bfloat16(), config, strategy)
    tokens = torch.tensor([[5, 6, 7, 8]])
    everywhere = torch.ones(1, 4, dtype=torch.bool)
    found: list[float] = []
    with LiveBytes() as live:
        for _ in range(2):
            loss = -engine.forward(tokens, positions=everywhere, targets=tokens[0]).log_probs.mean()
            with live.measured() as found:
                engine.backward(loss)
            del loss
    size = ModelSize.of(SIZES, LoRAConfig())
    planned = zero_buffers_gb(config, size, ranks=1)
    if stage == 3:
        # Bucket and gathered weights exist before, and the plan of a pass includes the gradient of the head.
        head = size.vocabulary_size * size.width
        planned += (2 * head - 4 * BUCKET - 2 * size.num_parameters) / 1e9
    assert planned == pytest.approx(found[0], rel=0.1)


def test_a_bucket_has_its_full_size_even_for_a_few_trained_weights() -> None:
    config = RunConfig(ds=DeepSpeedConfig(zero_stage=2, lora=LoRAConfig(rank=2)))
    size = ModelSize.of(SIZES, config.ds.lora)
    assert size.num_trainable < BUCKET / 10
    assert zero_buffers_gb(config, size, ranks=8) == pytest.approx(2 * 2 * BUCKET / 1e9, rel=0.1)
