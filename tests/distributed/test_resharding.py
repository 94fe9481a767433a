"""Tests that a checkpoint loads on another number of ranks with equal weights, moments and learning rate."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from builders import Attack
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from ray import cloudpickle
from torch import Tensor

from unigrpo import CheckpointError
from unigrpo.config import ActorConfig, AdamConfig, DeepSpeedConfig, LoRAConfig, RolloutConfig, RunConfig
from unigrpo.distributed.actors import ModelActor
from unigrpo.distributed.engine import StrategyEngine
from unigrpo.distributed.export import checkpoint_weights
from unigrpo.distributed.placement import model_group, place
from unigrpo.distributed.resharding import flat_runs, own_part, sharded_runs
from unigrpo.distributed.strategy import UniGRPOStrategy, make_strategy
from unigrpo.models.lora import add_lora
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.training.optimizer_step import Engine, LocalEngine

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file

Stage = Literal[0, 1, 2, 3]
Dtype = Literal["fp32", "bf16"]
NUM_ROWS, LENGTH = 4, 12
State = dict[str, list[Tensor]]
"""Master weight, both moments and weight of the forward pass by the name of the parameter."""


def run_config(stage: Stage, dtype: Dtype, num_ranks: int = 1, lora_rank: int = 0) -> RunConfig:
    return RunConfig(
        # With a large epsilon, Adam does not amplify the rounding of small gradients.
        actor=ActorConfig(
            num_gpus_per_node=num_ranks,
            adam=AdamConfig(lr=1e-2, eps=1e-3, weight_decay=0.1),
            lr_scheduler="linear",
            lr_warmup_ratio=0.1,
        ),
        rollout=RolloutConfig(batch_size=2, n_samples_per_prompt=2),
        ds=DeepSpeedConfig(zero_stage=stage, param_dtype=dtype, lora=LoRAConfig(rank=lora_rank, alpha=4)),
    )


def new_model(config: RunConfig, vocab_size: int = 37) -> MMadaModelLM:
    """Returns a model whose sizes are not divisible by two or four."""
    torch.manual_seed(0)
    model = MMadaModelLM(
        MMadaConfig(d_model=18, n_layers=1, n_heads=3, mlp_hidden_size=19, vocab_size=vocab_size, mask_token_id=1)
    )
    model = model if config.ds.param_dtype == "fp32" else model.bfloat16()
    if config.ds.lora.rank:
        add_lora(model, config.ds.lora)
    return model


def new_engine(config: RunConfig, vocab_size: int = 37) -> StrategyEngine:
    strategy = make_strategy(config)
    strategy.setup_distributed()
    return StrategyEngine(new_model(config, vocab_size), config, strategy)


def make_steps(engine: Engine, first: int, last: int) -> None:
    """Makes optimizer steps whose batches are the same on any number of ranks."""
    for step in range(first, last):
        tokens = torch.randint(3, 37, (NUM_ROWS, LENGTH), generator=torch.Generator().manual_seed(step))
        own = tokens[engine.rank :: engine.world_size]
        everywhere = torch.ones(own.shape, dtype=torch.bool)
        engine.backward(-engine.forward(own, positions=everywhere, targets=own.flatten()).log_probs.sum() / 48)
        engine.step()


def full_state(engine: StrategyEngine) -> State:
    """Returns the whole state of all ranks, which must call this together."""
    optimizer = engine._engine.optimizer
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False  # DeepSpeed links only the moments of the first group
        optimizer._lazy_init_hp_params_optimizer_state()
    names = [name for name, parameter in engine.model.named_parameters() if parameter.requires_grad]
    state: State = {}
    for name, weight in zip(names, engine.trained_weights(), strict=True):
        parameter = engine.model.get_parameter(name)
        parts = [safe_get_full_fp32_param(parameter)]
        parts += [safe_get_full_optimizer_state(parameter, key) for key in ("exp_avg", "exp_avg_sq")]
        state[name] = [weight.clone(), *(part.clone() for part in parts if part is not None)]
    return state


def local_state(engine: LocalEngine) -> State:
    return {
        name: [p.data, p.data, *(engine.optimizer.state[p][key] for key in ("exp_avg", "exp_avg_sq"))]
        for name, p in engine.model.named_parameters()
    }


def adam_options(engine: StrategyEngine) -> list[tuple[float, float, float]]:
    """Returns step count, weight decay and learning rate of each parameter group of Adam."""
    saved = engine._engine.optimizer.state_dict()
    state = saved.get("base_optimizer_state") or saved["optimizer_state_dict"]
    steps = [float(each["step"]) for _, each in sorted(state["state"].items())]
    groups = state["param_groups"]
    return [(step, group["weight_decay"], group["lr"]) for step, group in zip(steps, groups, strict=True)]


def assert_equal(found: State, expected: State, atol: float = 0.0) -> None:
    assert list(found) == list(expected)
    for name, parts in found.items():
        for part, wanted in zip(parts, expected[name], strict=True):
            torch.testing.assert_close(part, wanted, rtol=0, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("before", [1, 2, 3, 5])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_the_parts_of_all_ranks_form_the_whole_parameters(before: int, after: int) -> None:
    shapes = [{"a": torch.Size([3, 3]), "b": torch.Size([1])}, {"c": torch.Size([7])}]
    values = {"a": torch.arange(1.0, 10.0), "b": torch.tensor([10.0]), "c": torch.arange(11.0, 18.0)}

    def cut(whole: Tensor, ranks: int, multiple: int = 1) -> list[Tensor]:
        length = -(-len(whole) // (ranks * multiple)) * multiple
        return list(torch.cat([whole, torch.zeros(ranks * length - len(whole))]).split(length))

    def sharded(ranks: int) -> list[list[Tensor]]:
        """Returns the flat tensors of each rank with ZeRO-3."""
        return [[torch.cat([cut(values[n], ranks)[rank] for n in group]) for group in shapes] for rank in range(ranks)]

    def flat(ranks: int) -> list[list[Tensor]]:
        """Returns the flat tensors of each rank with ZeRO-2."""
        wholes = [torch.cat([values[name] for name in group]) for group in shapes]
        return [[cut(whole, ranks, multiple=2)[rank] for whole in wholes] for rank in range(ranks)]

    for layout, runs in (
        (sharded, lambda ranks: sharded_runs(shapes, ranks)),
        (flat, lambda ranks: flat_runs(shapes, [len(group) for group in flat(ranks)[0]])),
    ):
        saved, wanted, files = runs(before), runs(after), layout(before)
        for rank, expected in enumerate(layout(after)):
            found: list[list[float]] = [[] for _ in shapes]
            for name, run in wanted.items():
                part = own_part([file[run.group] for file in files], saved[name], run, rank)
                found[run.group] += part.tolist()
            assert found == [each.tolist() for each in expected]


def split_in_two(folder: Path, stage: Stage) -> None:
    """Replaces the files of one rank by files like those that two ranks write."""
    (optimizer_file,) = folder.glob("*_optim_states.pt")
    (model_file,) = folder.glob("*_model_states.pt")
    model = torch.load(model_file, weights_only=False) | {"dp_world_size": 2}
    torch.save(model, model_file)

    def padded(values: Tensor, multiple: int) -> Tensor:
        return torch.cat([values, torch.zeros(-len(values) % multiple, dtype=values.dtype)])

    def piece(values: Tensor, shapes: dict[str, torch.Size], rank: int) -> Tensor:
        if stage < 3:
            return padded(values, 4).chunk(2)[rank].clone()
        parts = values.split([shape.numel() for shape in shapes.values()])
        return torch.cat([padded(part, 2).chunk(2)[rank] for part in parts])

    for rank in (0, 1):
        content = torch.load(optimizer_file, weights_only=False)
        own = content["optimizer_state_dict"]
        weights, base = "single_partition_of_fp32_groups", "base_optimizer_state"
        if stage == 3:
            weights, base = "fp32_flat_groups", "optimizer_state_dict"
        for group, shapes in enumerate(model["param_shapes"]):
            numel = sum(shape.numel() for shape in shapes.values())
            values = own[weights][group][:numel]
            own[weights][group] = piece(values, shapes, rank)
            if stage < 3 and rank == 1:
                own[weights][group] = own[weights][group][: numel - len(piece(values, shapes, 0))]
            for key in ("exp_avg", "exp_avg_sq"):
                state = own[base]["state"][group]
                state[key] = piece(state[key][:numel], shapes, rank)
        torch.save(content, folder / optimizer_file.name.replace("pp_rank_0", f"pp_rank_{rank}_of_two"))
        if stage == 3:
            fragments = {
                name: padded(part, 2).chunk(2)[rank].clone() for name, part in model["frozen_param_fragments"].items()
            }
            named = folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
            torch.save(model | {"frozen_param_fragments": fragments}, named)
    optimizer_file.unlink()
    for file in list(folder.glob("*_of_two*")):
        file.rename(file.with_name(file.name.replace("_of_two", "")))


@pytest.mark.parametrize(
    ("stage", "dtype", "lora_rank"), [(1, "fp32", 0), (2, "bf16", 2), (3, "bf16", 0), (3, "fp32", 2)]
)
def test_one_rank_reads_the_files_of_two(
    one_rank: None, tmp_path: Path, stage: Stage, dtype: Dtype, lora_rank: int
) -> None:
    config = run_config(stage, dtype, lora_rank=lora_rank)
    engine = new_engine(config)
    make_steps(engine, 0, 3)
    engine.save(tmp_path)
    expected, options, rate = full_state(engine), adam_options(engine), engine.learning_rate()
    frozen = {name: p.detach().clone() for name, p in engine.model.named_parameters() if not p.requires_grad}
    split_in_two(tmp_path / "engine", stage)

    loaded = new_engine(config)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if not parameter.requires_grad:
                parameter.zero_()
    loaded.load(tmp_path)
    assert adam_options(loaded) == options
    assert loaded.learning_rate() == rate
    assert_equal(full_state(loaded), expected)
    for name, weight in frozen.items():
        assert torch.equal(loaded.model.get_parameter(name), weight), name

    for each in (engine, loaded):
        make_steps(each, 3, 5)
    assert adam_options(loaded) == adam_options(engine)
    assert adam_options(loaded)[0][0] == 5.0
    assert_equal(full_state(loaded), full_state(engine))


def test_a_checkpoint_without_the_file_of_a_rank_is_refused(one_rank: None, tmp_path: Path) -> None:
    config = run_config(2, "fp32")
    engine = new_engine(config)
    engine.save(tmp_path)
    (first,) = (tmp_path / "engine").glob("*_optim_states.pt")
    first.rename(first.with_name(first.name.replace("pp_rank_0", "pp_rank_1")))
    with pytest.raises(CheckpointError, match="the optimizer states of rank 0 are missing; restore the files"):
        engine.load(tmp_path)


def test_a_checkpoint_with_other_flat_tensors_is_loaded(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeRO-3 divides its parameter groups into flat tensors, whose largest size depends on the number of ranks."""
    config = run_config(3, "fp32")
    engine = new_engine(config)
    make_steps(engine, 0, 3)
    engine.save(tmp_path)
    expected = full_state(engine)
    split_in_two(tmp_path / "engine", 3)
    settings = UniGRPOStrategy.get_ds_train_config

    def with_small_tensors(*args: Any, **kwargs: Any) -> dict[str, Any]:
        changed = settings(*args, **kwargs)
        changed["zero_optimization"]["sub_group_size"] = 700
        return changed

    monkeypatch.setattr(UniGRPOStrategy, "get_ds_train_config", with_small_tensors)
    loaded = new_engine(config)
    num_before, num_now = (len(each._engine.optimizer.fp16_groups) for each in (engine, loaded))
    assert num_now > num_before
    loaded.load(tmp_path)
    assert_equal(full_state(loaded), expected)
    for each in (engine, loaded):
        make_steps(each, 3, 5)
    assert_equal(full_state(loaded), full_state(engine), atol=1e-7)


def test_a_checkpoint_of_another_model_or_zero_stage_is_refused(one_rank: None, tmp_path: Path) -> None:
    engine = new_engine(run_config(2, "fp32"))
    make_steps(engine, 0, 1)
    engine.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"wte.weight is \(37, 18\) in the checkpoint and \(38, 18\) in the run"):
        new_engine(run_config(2, "fp32"), vocab_size=38).load(tmp_path)
    adapters, sharded, whole = run_config(2, "fp32", lora_rank=2), run_config(3, "fp32"), run_config(0, "fp32")
    for num_ranks in (1, 2):
        with pytest.raises(CheckpointError, match=r"wte.weight is \(37, 18\) in the checkpoint and absent in"):
            new_engine(adapters).load(tmp_path)
        with pytest.raises(CheckpointError, match=r"model_states.pt is missing; .* set ds.zero_stage as it was"):
            new_engine(sharded).load(tmp_path)
        with pytest.raises(CheckpointError, match=r"ds.zero_stage 0 does not shard them; set ds.zero_stage as it was"):
            new_engine(whole).load(tmp_path)
        if num_ranks == 1:
            split_in_two(tmp_path / "engine", 2)


def test_a_checkpoint_without_zero_is_loaded_unchanged(one_rank: None, tmp_path: Path) -> None:
    config = run_config(0, "fp32")
    engine = new_engine(config)
    make_steps(engine, 0, 2)
    engine.save(tmp_path)
    loaded = new_engine(config)
    loaded.load(tmp_path)
    for each in (engine, loaded):
        make_steps(each, 2, 3)
    for name, weight in engine.model.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), weight), name
    with pytest.raises(CheckpointError, match=r"1 ranks wrote the checkpoint, but it has the optimizer states of 0"):
        new_engine(run_config(2, "fp32")).load(tmp_path)


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize(("stage", "kind"), [(2, "optim"), (2, "model"), (3, "optim"), (3, "model")])
def test_a_file_that_could_run_code_is_refused_and_runs_none(
    one_rank: None, tmp_path: Path, stage: Stage, kind: str, num_ranks: int
) -> None:
    config = run_config(stage, "fp32")
    engine = new_engine(config)
    make_steps(engine, 0, 1)
    engine.save(tmp_path)
    if num_ranks == 2:
        split_in_two(tmp_path / "engine", stage)
    file = sorted((tmp_path / "engine").glob(f"*_{kind}_states.pt"))[-1]
    content = torch.load(file, weights_only=False)
    torch.save(content | {"attack": Attack(tmp_path / "attacked")}, file)
    with pytest.raises(CheckpointError, match=r"holds \w+\.mkdir where only tensors and plain values belong"):
        engine.load(tmp_path)
    if stage == 3 or kind == "model":
        with pytest.raises(CheckpointError, match=r"holds \w+\.mkdir where only tensors and plain values belong"):
            checkpoint_weights(tmp_path, torch.float32)
    assert not (tmp_path / "attacked").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "attacked").is_dir(), "loading the pickle makes no file"


class ReshardingWorker:
    """A worker that makes a new engine for every part of a run in one process group."""

    def go_on(self, config: RunConfig, load: Path | None, first: int, last: int, save: Path) -> tuple[Any, ...]:
        """Returns the states and Adam's options after loading and after the steps, and saves a checkpoint."""
        engine = new_engine(config)
        if load is not None:
            engine.load(load)
        before = (full_state(engine), adam_options(engine)) if load is not None else None
        make_steps(engine, first, last)
        engine.save(save)
        return before, (full_state(engine), adam_options(engine)), engine.learning_rate()


class ReshardingActor(ModelActor):
    def build(self, config: RunConfig, strategy: UniGRPOStrategy) -> ReshardingWorker:
        return ReshardingWorker()


@pytest.fixture(scope="module")
def two_ranks(cluster: None) -> Iterator[Any]:
    config = run_config(2, "fp32", num_ranks=2)
    made = model_group("policy", ReshardingActor, config, place(2), gpu_fraction=1.0)
    made.initialize(config)
    yield made
    made.close()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "dtype", "lora_rank"),
    [(1, "fp32", 0), (2, "fp32", 0), (3, "fp32", 0), (2, "bf16", 2), (3, "bf16", 2)],
)
def test_a_run_goes_from_two_ranks_to_one_and_back(
    two_ranks: Any, one_rank: None, tmp_path: Path, stage: Stage, dtype: Dtype, lora_rank: int
) -> None:
    two, one = (run_config(stage, dtype, ranks, lora_rank) for ranks in (2, 1))
    folders = [tmp_path / name for name in "abc"]
    _, after_two, rate_two = two_ranks.call(ReshardingWorker.go_on, two, None, 0, 2, folders[0])[0]
    before_one, after_one, rate_one = ReshardingWorker().go_on(one, folders[0], 2, 4, folders[1])
    before_back, after_back, rate_back = two_ranks.call(ReshardingWorker.go_on, two, folders[1], 4, 6, folders[2])[0]
    for (state, options), (expected, expected_options) in ((before_one, after_two), (before_back, after_one)):
        assert options == expected_options
        assert_equal(state, expected)
    assert [step for step, *_ in after_back[1]] == [6.0] * len(after_back[1])
    if dtype == "bf16":
        return
    alone = LocalEngine(new_model(one), one.actor, one.num_optimizer_steps)
    for first, (state, _), rate in ((0, after_two, rate_two), (2, after_one, rate_one), (4, after_back, rate_back)):
        make_steps(alone, first, first + 2)
        assert rate == pytest.approx(alone.learning_rate(), rel=1e-12)
        assert_equal(state, local_state(alone), atol=1e-6)
