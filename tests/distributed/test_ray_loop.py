"""Tests that the whole loop on Ray, with OpenRLHF, DeepSpeed and reward processes, equals a run in one process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import ray
import torch
from builders import DIGITS_REWARD, SUMS, Recorder, small_run, untimed
from torch import Tensor
from transformers import AutoTokenizer, set_seed

from unigrpo.config import (
    AdamConfig,
    DeepSpeedConfig,
    LoRAConfig,
    RewardConfig,
    RewardTermConfig,
    RunConfig,
)
from unigrpo.distributed.export import export_checkpoint
from unigrpo.distributed.placement import Groups, start_groups
from unigrpo.distributed.ray_group import WorkerDied, WorkerFailed
from unigrpo.models.lora import add_lora
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.trainers.unigrpo import UniGRPOTrainer
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.training.scoring import ScoringSettings
from unigrpo.workers.group import LocalGroup, WorkerGroup
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.reference import ReferenceWorker
from unigrpo.workers.reward import LocalRewards, RewardScorer

pytestmark = pytest.mark.ray

NUM_STEPS = 3


def run_config(folder: Path, ranks: int, *, is_spread: bool = False) -> RunConfig:
    """Returns a run. If it is spread, the reference and a rollout worker have their own GPUs."""
    return small_run(
        folder,
        rollout={"micro_batch_size": 4, "num_workers": int(is_spread)},
        actor={
            "num_gpus_per_node": ranks, "adam": AdamConfig(lr=1e-3, weight_decay=0.1),
            "lr_scheduler": "cosine_with_min_lr", "lr_warmup_ratio": 0.3,
        },
        train={
            "num_steps": NUM_STEPS, "max_skipped_updates": 0, "micro_batch_size": 3 // ranks,
            "colocate_actor_ref": not is_spread,
        },
        # With two ranks, the reward has a process on the GPU of each rank, and otherwise one separate process.
        reward=RewardConfig(terms=(RewardTermConfig(name=DIGITS_REWARD, on_policy_gpus=ranks > 1),)),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    trainer: UniGRPOTrainer
    rows: dict[int, dict[str, float]]
    weights: dict[str, Tensor]


def fit(
    config: RunConfig,
    path: Path,
    policy: WorkerGroup,
    reference: WorkerGroup | None,
    reward: RewardScorer,
    rollout: WorkerGroup | None = None,
) -> Run:
    trainer = UniGRPOTrainer(
        config,
        policy=policy,
        reference=reference,
        rollout=rollout,
        reward=reward,
        prompts=SUMS,
        eval_prompts=[],
        checkpoints=CheckpointStore(path / "checkpoints", max_num=3),
    )
    output = Recorder()
    trainer.fit(output)
    return Run(path, trainer, output.untimed, weights(trainer, path / "policy"))


def fit_here(config: RunConfig, path: Path) -> Run:
    folder = config.actor.model_name_or_path
    model = MMadaModelLM.from_pretrained(folder)
    reference = MMadaModelLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = Vocabulary.from_pretrained_parts(model.config, tokenizer)
    if config.ds.lora.rank:
        set_seed(config.seed)  # each rank does this before it initializes its adapters
        add_lora(model, config.ds.lora)
    engine = LocalEngine(model, config.actor, NUM_STEPS * config.train.num_inner_updates)
    return fit(
        config,
        path,
        LocalGroup(PolicyWorker(config, engine, tokenizer)),
        LocalGroup(
            ReferenceWorker(config, reference, torch.device("cpu"), ScoringSettings.of_run(config, vocabulary))
        ),
        LocalRewards(config.reward),
    )


@pytest.fixture(scope="module")
def local(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit_here(run_config(tiny_model_folder, 1), tmp_path_factory.mktemp("local"))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(1, marks=pytest.mark.slow, id="one rank"),
        pytest.param(2, id="two ranks under zero3, reference and rollout worker apart"),
    ],
)
def on_ray(
    request: pytest.FixtureRequest, cluster: None, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    config = run_config(tiny_model_folder, request.param, is_spread=request.param == 2)
    if request.param == 2:
        config = dataclasses.replace(config, ds=DeepSpeedConfig(param_dtype="fp32", zero_stage=3))
    groups: Groups = start_groups(config)
    assert [len(term.processes) for term in groups.reward._terms] == [request.param]
    folder = tmp_path_factory.mktemp("ray")
    yield fit(config, folder, groups.policy, groups.reference, groups.reward, groups.rollout)
    groups.close()


def test_metrics_and_weights_are_those_of_one_process(on_ray: Run, local: Run) -> None:
    assert set(on_ray.rows) == set(local.rows) == set(range(1, NUM_STEPS + 1))
    for step, row in local.rows.items():
        assert on_ray.rows[step] == pytest.approx(row, rel=1e-4, abs=1e-6)
    assert max(row["grad_norm"] for row in local.rows.values()) > 0
    for key, weight in local.weights.items():  # Adam divides by the size of the gradient, which amplifies rounding
        torch.testing.assert_close(on_ray.weights[key], weight, atol=2e-5, rtol=0)


def test_a_run_resumes_exactly_from_a_checkpoint(on_ray: Run) -> None:
    trainer = on_ray.trainer
    first = {step: untimed(trainer.train_step(step, Recorder())) for step in (10, 11)}
    assert trainer.resume() == NUM_STEPS
    second = {step: untimed(trainer.train_step(step, Recorder())) for step in (10, 11)}
    assert second == first


def test_a_loss_that_is_not_finite_names_worker_and_sample_and_stops(on_ray: Run, tmp_path: Path) -> None:
    trainer = on_ray.trainer
    update = trainer._update
    before = weights(trainer, tmp_path / "before")
    trainer._update = lambda samples: update(  # type: ignore[method-assign]
        [dataclasses.replace(s, ref_log_probs=tuple(r * math.nan for r in s.ref_log_probs or ())) for s in samples]
    )
    with pytest.raises(WorkerFailed, match=r"policy workers? 0.* failed in update: NonFiniteLossError: .*sums:\d"):
        trainer.train_step(20, Recorder())
    trainer._update = update  # type: ignore[method-assign]
    after = weights(trainer, tmp_path / "after")
    assert all(torch.equal(after[key], weight) for key, weight in before.items())


def test_a_checkpoint_exports_as_the_weights_of_the_run(on_ray: Run, tmp_path: Path) -> None:
    check_export(on_ray.trainer.config, on_ray, tmp_path / "offline")


def with_lora(zero_stage: Literal[2, 3]) -> DeepSpeedConfig:
    return DeepSpeedConfig(param_dtype="fp32", zero_stage=zero_stage, lora=LoRAConfig(rank=4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ds", "num_rollout_workers"),
    [
        pytest.param(with_lora(3), 2, id="zero3 with lora and rollout workers"),
        pytest.param(with_lora(2), 0, id="zero2 with lora"),
        pytest.param(with_lora(2), 2, id="zero2 with lora and rollout workers"),
        pytest.param(DeepSpeedConfig(param_dtype="fp32", zero_stage=3), 2, id="zero3, rollout workers"),
    ],
)
def test_rollout_workers_lora_and_sharding_change_nothing(
    ds: DeepSpeedConfig, num_rollout_workers: int, cluster: None, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """With LoRA, the base model is the reference, and the exported weights are merged."""
    run = dataclasses.replace(run_config(tiny_model_folder, 2), ds=ds)
    config = dataclasses.replace(run, rollout=dataclasses.replace(run.rollout, num_workers=num_rollout_workers))
    expected = fit_here(dataclasses.replace(run_config(tiny_model_folder, 1), ds=ds), tmp_path / "here")
    with contextlib.closing(start_groups(config)) as groups:
        assert (groups.reference is None) == bool(ds.lora.rank)
        finished = fit(config, tmp_path / "ray", groups.policy, groups.reference, groups.reward, groups.rollout)
        for step, row in expected.rows.items():
            assert finished.rows[step] == pytest.approx(row, rel=1e-4, abs=1e-6)
        start = MMadaModelLM.from_pretrained(tiny_model_folder).state_dict()
        for key, weight in expected.weights.items():
            torch.testing.assert_close(finished.weights[key], weight, atol=1e-5, rtol=0)
            if ds.lora.rank:
                assert torch.equal(weight, start[key]) != ("blocks" in key and "norm" not in key)
        assert expected.rows[NUM_STEPS]["kl/reference_nats"] > 0
        check_export(config, finished, tmp_path / "offline")


def test_a_rollout_worker_that_dies_is_named_and_ends_the_step(on_ray: Run) -> None:
    """The last test of the workers, which have one less from then on."""
    rollout = on_ray.trainer.rollout
    if rollout is None:
        pytest.skip("the run of one rank has no rollout workers")
    ray.kill(rollout.actors[0])  # type: ignore[attr-defined]
    with pytest.raises(
        WorkerDied, match=r"rollout worker 0 died in (receive_weights|generate).*The same command resumes"
    ):
        on_ray.trainer.train_step(NUM_STEPS, Recorder())


def check_export(config: RunConfig, run: Run, folder: Path) -> None:
    """Checks that a model without workers, made from the newest checkpoint, has the weights of the run."""
    newest = CheckpointStore(run.folder / "checkpoints", 1).latest()
    assert newest is not None
    export_checkpoint(config, newest.folder, folder)
    exported = MMadaModelLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(exported[key], weight) for key, weight in run.weights.items())


def weights(trainer: UniGRPOTrainer, folder: Path) -> dict[str, Tensor]:
    trainer.export(folder)
    return MMadaModelLM.from_pretrained(folder).state_dict()
