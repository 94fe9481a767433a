"""Compares the exact KL between the policy and its base model with whole distributions."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from training.small_updates import (
    MASK,
    ROLLOUTS,
    SETTINGS,
    run_config,
)

from unigrpo.config import (
    AdamConfig,
    AlgoConfig,
    DeepSpeedConfig,
    KLConfig,
    LoRAConfig,
    RunConfig,
)
from unigrpo.models.lora import add_lora
from unigrpo.records import TrainSample
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.training.scoring import score
from unigrpo.training.unigrpo import unigrpo_updates
from unigrpo.training.views import ViewSampler


@pytest.mark.parametrize("cut", [{}, {"micro_batch_size": 1}])
@pytest.mark.parametrize("method", ["unigrpo", "espo"])
def test_the_exact_kl_is_that_of_whole_distributions(model, method, cut):
    """A loop over tokens uses a separate base model. The gradient of this loss moves the adapters towards the base
    model."""
    base = copy.deepcopy(model).eval()
    lora = LoRAConfig(rank=4, alpha=8)
    add_lora(model, lora)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    config = run_config(method, num_inner_updates=1, **cut)
    kl = KLConfig(estimator="exact", init_coef=10.0)
    actor = dataclasses.replace(config.actor, adam=AdamConfig(lr=2e-2))
    config = dataclasses.replace(
        config, actor=actor, ds=DeepSpeedConfig(lora=lora), algo=dataclasses.replace(config.algo, kl=kl)
    )
    engine, sampler = LocalEngine(model, config.actor, 100), ViewSampler(config)

    def loop():
        """Returns the mean over the scored tokens of all samples whose task has a KL."""
        found = []
        for sample in ROLLOUTS:
            views = sampler.views(sample, 0)
            if config.kl_coef(sample.key.task) == 0:
                continue
            for masked, weight in zip(views.is_masked, views.weight, strict=True):
                xt = torch.where(masked, MASK, sample.token_ids)[None]
                with torch.no_grad():
                    logits, base_logits = model(xt).logits[0], base(xt).logits[0]
                for place in (weight != 0).nonzero().flatten():
                    is_code = bool(sample.image_mask[place])
                    ids = slice(*SETTINGS.image_slice) if is_code else slice(None)
                    temperature = SETTINGS.image_temperature if is_code else SETTINGS.text_temperature
                    p, q = ((x[place, ids] / temperature).log_softmax(-1) for x in (logits, base_logits))
                    found.append((p.exp() * (p - q)).sum() * (weight[place] if method == "espo" else 1.0))
        return found

    expected = loop()
    scored = score(engine, config, SETTINGS, ROLLOUTS)
    samples = [
        TrainSample(rollout=r, advantages=(0.0,), is_valid=True, old_log_probs=one)
        for r, one in zip(ROLLOUTS, scored, strict=True)
    ]
    metrics = unigrpo_updates(engine, config, SETTINGS, samples)
    assert metrics["grad_norm"] > 0
    if method == "unigrpo":
        assert metrics["kl/reference_nats"] == pytest.approx(float(sum(expected) / len(expected)), rel=1e-4)
    assert "kl/reference_nats/t2i" not in metrics
    for _ in range(2):
        unigrpo_updates(engine, config, SETTINGS, samples)
    assert sum(loop()) < 0.5 * sum(expected)


def test_the_exact_kl_needs_the_base_in_the_same_process():
    with pytest.raises(ValueError, match=r"algo.kl.estimator is exact, .* ds.lora.rank is 0; set ds.lora.rank"):
        RunConfig(algo=AlgoConfig(kl=KLConfig(estimator="exact")))
