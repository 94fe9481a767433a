"""Tests a reference that moves towards the policy: against calculations by hand, and with a checkpoint."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from unigrpo.config import AlgoConfig, ReferenceConfig, RunConfig
from unigrpo.models.checkpoint_io import save_weights
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.training.scoring_settings import ScoringSettings
from unigrpo.workers.reference import ReferenceWorker

SETTINGS = ScoringSettings(mask_id=1, image_slice=(0, 0), text_temperature=1.0, image_temperature=1.0)


def model(seed: int) -> MMadaModelLM:
    torch.manual_seed(seed)
    return MMadaModelLM(MMadaConfig(d_model=16, n_layers=1, n_heads=2, mlp_hidden_size=32, vocab_size=20)).bfloat16()


def worker(reference: MMadaModelLM, ema: float) -> ReferenceWorker:
    config = RunConfig(algo=AlgoConfig(reference=ReferenceConfig(reset_steps=1, ema=ema)))
    return ReferenceWorker(config, reference, torch.device("cpu"), SETTINGS)


def test_a_reset_copies_the_weights_of_the_policy(tmp_path):
    policy, reference = model(0), model(1)
    save_weights(policy, policy.state_dict(), tmp_path)
    worker(reference, 0.0).move_to(tmp_path)
    assert all(torch.equal(weight, policy.state_dict()[name]) for name, weight in reference.state_dict().items())


def test_an_average_follows_changes_below_the_precision_of_the_weights(tmp_path):
    """With 0.999, weights in bfloat16 would never change."""
    policy, reference = model(0), model(1)
    start = {name: weight.clone() for name, weight in reference.state_dict().items()}
    save_weights(policy, policy.state_dict(), tmp_path)
    moving = worker(reference, 0.999)
    for _ in range(200):
        moving.move_to(tmp_path)
    for name, weight in reference.state_dict().items():
        kept = 0.999**200
        expected = kept * start[name].double() + (1 - kept) * policy.state_dict()[name].double()
        torch.testing.assert_close(weight.double(), expected, rtol=0.005, atol=1e-6)  # the precision of bfloat16


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_training_resumes_exactly_from_a_checkpoint(ema, tmp_path):
    policy, reference = model(0), model(1)
    save_weights(policy, policy.state_dict(), tmp_path / "policy")
    moving = worker(reference, ema)
    moving.move_to(tmp_path / "policy")
    moving.save(tmp_path)
    other = model(2)
    resumed = worker(other, ema)
    resumed.load(tmp_path)
    for one in (moving, resumed):
        one.move_to(tmp_path / "policy")
    assert all(torch.equal(weight, reference.state_dict()[name]) for name, weight in other.state_dict().items())


def test_a_checkpoint_without_a_reference_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no weights of the reference, .* set algo.reference.reset_steps 0"):
        worker(model(0), 0.0).load(tmp_path)


def test_a_reference_that_does_not_move_is_not_saved(tmp_path):
    reference = model(0)
    before = copy.deepcopy(reference.state_dict())
    fixed = ReferenceWorker(RunConfig(), reference, torch.device("cpu"), SETTINGS)
    fixed.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    fixed.load(tmp_path)
    assert all(torch.equal(weight, before[name]) for name, weight in reference.state_dict().items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReferenceConfig(reset_steps=-1), "algo.reference.reset_steps is -1"),
        (lambda: ReferenceConfig(reset_steps=2, ema=1.0), r"algo.reference.ema is 1.0; it must lie in \[0, 1\)"),
        (lambda: ReferenceConfig(ema=0.5), "but reset_steps is 0, which never moves the reference"),
        (
            lambda: RunConfig(
                algo=AlgoConfig(reference=ReferenceConfig(reset_steps=2), kl=replace(AlgoConfig().kl, init_coef=0.0))
            ),
            "this run has none that can move: algo.kl.init_coef is 0",
        ),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
