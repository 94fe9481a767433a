"""Tests that the DeepSpeed engine on two Ray actors equals the local engine, resumes exactly, and compiles nothing."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.comm import comm
from ray import cloudpickle
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from unigrpo.config import ActorConfig, AdamConfig, DeepSpeedConfig, RolloutConfig, RunConfig, TrainConfig
from unigrpo.cost.memory import ModelSize
from unigrpo.cost.step_time import update_traffic
from unigrpo.distributed.actors import ModelActor
from unigrpo.distributed.engine import StrategyEngine
from unigrpo.distributed.placement import model_group, place
from unigrpo.distributed.ray_group import WorkerDied, WorkerFailed
from unigrpo.distributed.strategy import UniGRPOStrategy, make_strategy
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.training.optimizer_step import Engine, LocalEngine
from unigrpo.workers.group import LocalGroup, WorkerGroup

pytestmark = pytest.mark.ray
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file

ACTOR = ActorConfig(
    num_gpus_per_node=2,
    adam=AdamConfig(lr=1e-2, weight_decay=0.1, betas=(0.9, 0.99)),
    lr_scheduler="cosine_with_min_lr",
    lr_warmup_ratio=0.3,
    max_norm=0.5,  # below the norms that occur, so that the test includes clipping
)
NUM_STEPS = 6


CONFIG = RunConfig(
    actor=ACTOR,
    rollout=RolloutConfig(batch_size=2, n_samples_per_prompt=4),
    train=TrainConfig(num_steps=NUM_STEPS, num_inner_updates=1, micro_batch_size=2),
    ds=DeepSpeedConfig(param_dtype="fp32"),
)


def small_model() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=40, num_attention_heads=2, num_key_value_heads=2, **sizes))


def sequences(step: int) -> list[Tensor]:
    """Returns eight sequences of 3 to 24 tokens. The second rank gets far more tokens than the first."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randint(0, 40, (3 * (i + 1),), generator=generator) for i in range(8)]


class Trainer:
    """A worker that makes one optimizer step on the mean loss over all tokens of all ranks."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def train(self, items: Sequence[Tensor], poison: float = 1.0) -> list[tuple[float, float, float]]:
        """Makes a step and returns loss, gradient norm and learning rate."""
        tokens = self.engine.all_reduce_sum(torch.tensor(float(sum(len(x) for x in items))))
        total = torch.zeros(())
        for x in items:
            loss = self.loss(x) / tokens * poison
            self.engine.backward(loss)
            total += loss.detach()
        rate = self.engine.learning_rate()
        return [(self.engine.all_reduce_sum(total).item(), self.engine.step(), rate)]

    def loss(self, item: Tensor) -> Tensor:
        """Returns the sum of the loss over the tokens of a sequence."""
        return cross_entropy(self.engine.forward(item[None]).logits[0], item, reduction="sum")

    def traffic(self, items: Sequence[Tensor]) -> list[dict[str, int]]:
        """Returns the bytes that this rank sums and gathers in a step, counting the largest tensor of each collective
        call."""
        backend = comm.cdb
        found, own = {"reduced": 0, "scattered": 0, "gathered": 0}, dict(backend.__dict__)

        def counted(kind: str, call: Any) -> Any:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                found[kind] += max(t.nbytes for t in (*args, *kwargs.values()) if isinstance(t, Tensor))
                return call(*args, **kwargs)

            return wrapped

        calls = {"all_reduce": "reduced", "reduce_scatter_tensor": "scattered", "all_gather_into_tensor": "gathered"}
        for name, kind in calls.items():
            setattr(backend, name, counted(kind, getattr(backend, name)))
        try:
            self.train(items)
        finally:
            backend.__dict__.clear()
            backend.__dict__.update(own)
        return [found]

    def train_but_lose(self, items: Sequence[Tensor], rank: int) -> list[tuple[float, float, float]]:
        if self.engine.rank == rank:
            os._exit(9)
        return self.train(items)

    def save(self, folder: Path) -> None:
        self.engine.save(folder)

    def load(self, folder: Path) -> None:
        self.engine.load(folder)

    def export(self, folder: Path) -> None:
        self.engine.export(folder)

    def start_large(self, config: RunConfig) -> None:
        """Makes a second engine in which ZeRO-3 treats the small weights as those of a large model.

        It keeps no weight on all ranks, and no gathered weight from the forward to the backward pass.
        """
        strategy = make_strategy(config)
        strategy.setup_distributed()
        settings = strategy.get_ds_train_config

        def without_thresholds(*args: Any, **kwargs: Any) -> dict[str, Any]:
            found = settings(*args, **kwargs)
            limits = ("param_persistence_threshold", "max_reuse_distance", "prefetch_bucket_size")
            found["zero_optimization"] |= {f"stage3_{name}": 0 for name in limits}
            return found

        strategy.get_ds_train_config = without_thresholds
        self.large = Trainer(StrategyEngine(small_model(), config, strategy))

    def traffic_of_large(self, items: Sequence[Tensor]) -> list[dict[str, int]]:
        return self.large.traffic(items)

    def start_mixed(self, config: RunConfig) -> None:
        """Makes a second engine in this process, which saves the imports of another process."""
        strategy = make_strategy(config)
        strategy.setup_distributed()
        self.mixed = MixedTrainer(StrategyEngine(masked_diffusion_model(), config, strategy))

    def train_mixed(self, items: Sequence[Tensor]) -> list[tuple[float, float, float]]:
        return self.mixed.train(items)

    def compiled_extensions(self) -> list[str]:
        return os.listdir(os.environ["TORCH_EXTENSIONS_DIR"])


class TrainerActor(ModelActor):
    def initialize(self, config: Any) -> None:
        os.environ["TORCH_EXTENSIONS_DIR"] = tempfile.mkdtemp()
        super().initialize(config)

    def build(self, config: RunConfig, strategy: UniGRPOStrategy) -> Trainer:
        return Trainer(StrategyEngine(small_model(), config, strategy))


def masked_diffusion_model() -> MMadaModelLM:
    torch.manual_seed(0)
    return MMadaModelLM(MMadaConfig(d_model=32, n_layers=2, n_heads=2, mlp_hidden_size=48, vocab_size=40))


class MixedTrainer(Trainer):
    """A trainer whose items say for each token whether it is an image code. Items without codes use no slice of the
    head."""

    def loss(self, item: Tensor) -> Tensor:
        tokens = torch.arange(20, 20 + len(item))[None]
        ids: dict[str, Any] = {"vocab_slice": (20, 40), "is_sliced": item} if item.any() else {}
        everywhere = torch.ones_like(tokens).bool()
        return -self.engine.forward(tokens, positions=everywhere, targets=tokens[0], **ids).log_probs.sum()


@dataclass(frozen=True)
class Run:
    """The results of a group after :data:`NUM_STEPS` steps."""

    group: WorkerGroup
    steps: list[tuple[float, float, float]]
    weights: dict[str, Tensor]
    zero_stage: int = 0


def train(group: WorkerGroup, folder: Path) -> Run:
    steps = [group.map(Trainer.train, sequences(s))[0] for s in range(NUM_STEPS)]
    return Run(group, steps, weights(group, folder))


def weights(group: WorkerGroup, folder: Path) -> dict[str, Tensor]:
    group.call(Trainer.export, folder)
    return Qwen2ForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


@pytest.fixture(
    scope="module",
    params=[pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)],
    ids=["zero1", "zero2", "zero3"],
)
def sharded(cluster: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Run]:
    config = replace(CONFIG, ds=replace(CONFIG.ds, zero_stage=request.param))
    group = model_group("policy", TrainerActor, config, place(CONFIG.actor.num_ranks), gpu_fraction=1.0)
    group.initialize(config)
    yield replace(train(group, tmp_path_factory.mktemp("sharded")), zero_stage=request.param)
    group.close()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Run:
    engine = LocalEngine(small_model(), ACTOR, NUM_STEPS)
    return train(LocalGroup(Trainer(engine)), tmp_path_factory.mktemp("local"))


def test_losses_norms_rates_and_weights_are_those_of_the_local_engine(sharded: Run, local: Run) -> None:
    assert sharded.steps == [pytest.approx(step, rel=1e-5) for step in local.steps]
    assert max(norm for _, norm, _ in local.steps) > ACTOR.max_norm
    for key, weight in sharded.weights.items():
        # Adam divides by the root of tiny second moments, which amplifies the rounding of the gradients.
        torch.testing.assert_close(weight, local.weights[key], atol=2e-5, rtol=0)


def test_the_plan_counts_the_sent_bytes(sharded: Run) -> None:
    """Each rank makes four passes in one optimizer step."""
    number = small_model().num_parameters()
    sizes = {"num_layers": 2, "width": 32, "mlp_width": 48, "kv_width": 32, "vocabulary_size": 40}
    size = ModelSize(num_parameters=number, num_trainable=number, **sizes)
    config = replace(CONFIG, ds=replace(CONFIG.ds, zero_stage=sharded.zero_stage))
    planned = update_traffic(config, size, num_passes=4)
    if sharded.zero_stage == 3:
        sharded.group.call(Trainer.start_large, config)
    traffic = Trainer.traffic_of_large if sharded.zero_stage == 3 else Trainer.traffic
    found = sharded.group.map(traffic, sequences(30))[0]
    assert found == {
        "reduced": pytest.approx(planned.reduced, rel=0.01, abs=100),
        "scattered": pytest.approx(planned.scattered, rel=0.01),
        "gathered": pytest.approx(planned.gathered, rel=0.01),
    }
    sums = planned.reduced + planned.scattered
    assert sums == 4 * number * (1 if sharded.zero_stage == 1 else 4), "ZeRO-1 sums the gradient once in each update"


def test_the_mean_of_the_means_of_two_ranks_differs_from_the_loss() -> None:
    """The lengths of the sequences differ enough to distinguish a global mean from a mean over ranks."""
    logits = [small_model()(x[None]).logits[0] for x in sequences(0)]
    losses = [cross_entropy(y, x, reduction="none") for x, y in zip(sequences(0), logits, strict=True)]
    first, second = torch.cat(losses[:4]), torch.cat(losses[4:])
    assert abs((first.mean() + second.mean()) / 2 - torch.cat(losses).mean()) > 1e-3


def test_training_resumes_exactly_from_a_checkpoint(sharded: Run, tmp_path: Path) -> None:
    group = sharded.group
    group.call(Trainer.save, tmp_path / "saved")
    before = weights(group, tmp_path / "before")
    expected = [group.map(Trainer.train, sequences(step)) for step in (10, 11)]
    group.call(Trainer.load, tmp_path / "saved")
    restored = weights(group, tmp_path / "restored")
    assert [key for key, weight in before.items() if not torch.equal(restored[key], weight)] == []
    assert [group.map(Trainer.train, sequences(step)) for step in (10, 11)] == expected


def test_a_gradient_that_is_not_finite_changes_nothing(sharded: Run, tmp_path: Path) -> None:
    group = sharded.group
    before = weights(group, tmp_path / "before")
    _, norm, rate = group.map(Trainer.train, sequences(20), math.nan)[0]
    assert math.isnan(norm)
    after = weights(group, tmp_path / "after")
    assert all(torch.equal(after[key], weight) for key, weight in before.items())
    _, norm, next_rate = group.map(Trainer.train, sequences(21))[0]
    assert math.isfinite(norm)
    assert next_rate == rate


def test_a_missing_checkpoint_is_an_error_that_names_worker_and_folder(sharded: Run, tmp_path: Path) -> None:
    with pytest.raises(
        WorkerFailed, match=rf"policy workers 0, 1 failed in load: CheckpointError: {tmp_path}: no DeepSpeed"
    ):
        sharded.group.call(Trainer.load, tmp_path)


def test_training_compiles_nothing(sharded: Run) -> None:
    """The compilation of DeepSpeed's extensions would take minutes at the first start."""
    assert sharded.group.call(Trainer.compiled_extensions) == [[], []]


def test_ranks_with_texts_images_and_both_train_together_under_zero3(sharded: Run) -> None:
    """The ranks apply the head to different tokens, and wait for each other whenever its weights are gathered."""
    both, image, text = torch.arange(12) % 2 == 0, torch.ones(12).bool(), torch.zeros(9).bool()
    items = [text, both, image, image]  # the first rank gets the first two
    local = LocalGroup(MixedTrainer(LocalEngine(masked_diffusion_model(), ACTOR, NUM_STEPS)))
    sharded.group.call(Trainer.start_mixed, replace(CONFIG, ds=replace(CONFIG.ds, zero_stage=3)))
    for _ in range(2):
        assert sharded.group.map(Trainer.train_mixed, items)[0] == pytest.approx(
            local.map(MixedTrainer.train, items)[0], rel=1e-5
        )


def test_a_rank_that_dies_is_named_while_the_other_waits_for_it(sharded: Run) -> None:
    """This must be the last test of this group, because it ends a rank."""
    with pytest.raises(WorkerDied, match=r"^policy worker 1 died in train_but_lose: .*The same command resumes"):
        sharded.group.map(Trainer.train_but_lose, sequences(0), 1)
