"""Tests which bundle of a placement group each rank uses, and with which config the workers start."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

import pytest
from ray.exceptions import RayActorError

from rewards.imaging import weights as reward_weights
from unigrpo.config import ActorConfig, BaseRunConfig, RewardConfig, RewardTermConfig, RolloutConfig, RunConfig
from unigrpo.config.corpora import SourceConfig
from unigrpo.config.denoising import ModalityConfig, StageConfig
from unigrpo.distributed import placement
from unigrpo.distributed.placement import sorted_by_node, start_groups, start_stage
from unigrpo.distributed.ray_group import RayGroup, WorkerError
from unigrpo.models import weight_files


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("AAAA", [0, 1, 2, 3]),
        ("ABBAAB", [0, 3, 4, 1, 2, 5]),
        # Four nodes with eight GPUs each, in the order in which Ray filled them.
        (
            "ABBBBBBBBAAAAAAACDDDDDDDDCCCCCCC",
            [0, *range(9, 16), *range(1, 9), 16, *range(25, 32), *range(17, 25)],
        ),
    ],
)
def test_ranks_of_one_node_have_consecutive_numbers(nodes: str, expected: list[int]) -> None:
    bundles = sorted_by_node(dict(reversed(list(enumerate(nodes)))))
    assert bundles == expected
    along_the_ranks = [nodes[bundle] for bundle in bundles]
    changes = sum(before != after for before, after in pairwise(along_the_ranks))
    assert changes == len(set(nodes)) - 1


class FakeGroup:
    """A group of workers that records the config with which it is started."""

    def __init__(self, role: str, configs: list[BaseRunConfig]) -> None:
        self.role, self._configs = role, configs

    def initialize(self, config: BaseRunConfig) -> None:
        self._configs.append(config)

    def close(self) -> None:
        """Does nothing, because there are no processes."""


class FakeRewards:
    """Rewards that start no process and record the config."""

    configs: ClassVar[list[RewardConfig]] = []

    def __init__(self, config: RewardConfig, *_: Any) -> None:
        self.configs.append(config)

    def initialize(self, *_: Any) -> None:
        """Does nothing."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[BaseRunConfig]:
    """Returns a list that records the configs with which groups of workers are started."""
    configs: list[BaseRunConfig] = []
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(placement, "place", lambda *_: None)
    monkeypatch.setattr(placement, "model_group", lambda role, *_: FakeGroup(role, configs))
    monkeypatch.setattr(placement, "rollout_group", lambda _: FakeGroup("rollout", configs))
    monkeypatch.setattr(placement, "RewardPool", FakeRewards)
    monkeypatch.setattr(placement.weight_channel, "connect", lambda *_: None)
    return configs


@pytest.mark.wrong_types
@pytest.mark.parametrize("kind", ["unigrpo", "stage"])
def test_workers_start_with_folders_in_place_of_names_on_the_hub(
    started: list[BaseRunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        weight_files, "snapshot_download", lambda name, *, allow_patterns: asked.append(name) or str(tmp_path)
    )
    actor = ActorConfig(model_name_or_path="owner/policy", num_nodes=2, num_gpus_per_node=8)
    if kind == "unigrpo":
        monkeypatch.setattr(reward_weights, "snapshot_download", weight_files.snapshot_download)
        rewards = RewardConfig(terms=(RewardTermConfig(name="pick_score", options={"model": "owner/reward"}),))
        start_groups(replace(RunConfig(), actor=actor, rollout=RolloutConfig(num_workers=4), reward=rewards))
        assert len(started) == 3, "policy, reference and rollout"
        assert FakeRewards.configs[-1].terms[0].options == {"model": str(tmp_path), "processor": str(tmp_path)}
        assert asked[1:] == ["owner/reward", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"]
    else:
        texts = SourceConfig(kind="text", task="lm", path="text.jsonl")
        lm = ModalityConfig(batch_size=16, sources={"text": texts})
        start_stage(StageConfig(actor=actor, lm=lm))
    assert asked[0] == "owner/policy"
    assert asked.count("owner/policy") == 1
    assert {config.actor.model_name_or_path for config in started} == {str(tmp_path)}


@pytest.mark.wrong_types
def test_the_log_says_how_long_each_part_of_the_start_took(started, caplog):
    with caplog.at_level("INFO", logger=placement.__name__):
        start_groups(replace(RunConfig(), rollout=RolloutConfig(num_workers=4)))
    parts = [record.getMessage().rpartition(":")[0] for record in caplog.records]
    assert parts == [
        f"start of {part}" for part in ("rewards", "policy", "reference", "rollout", "channel for weights")
    ]


@pytest.fixture
def first_process(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Replaces Ray by one whose first process answers as soon as `ray.wait` returns it."""
    fake = MagicMock()
    monkeypatch.setattr(placement, "ray", fake)
    monkeypatch.setattr(placement, "bundles_by_node", lambda _: [0])
    monkeypatch.setattr(placement, "PlacementGroupSchedulingStrategy", MagicMock())
    monkeypatch.setattr(RayGroup, "initialize", lambda *_: None)
    return fake


def start_policy(config: RunConfig, share: float = 1.0) -> None:
    placement.model_group("policy", placement.PolicyActor, config, MagicMock(), share).initialize(config)


@pytest.mark.wrong_types
def test_waiting_for_a_first_process_that_does_not_start_is_logged(first_process, caplog):
    first_process.wait.side_effect = [([], ["answer"]), ([], ["answer"]), (["answer"], [])]
    start_policy(RunConfig())
    assert [record.message[:45] for record in caplog.records] == ["the first process of policy has not started a"] * 2


@pytest.mark.wrong_types
def test_the_wait_for_a_first_process_ends_with_an_error(first_process, monkeypatch):
    monkeypatch.setattr(placement, "START_SECONDS", 0.01)
    first_process.wait.side_effect = lambda refs, timeout: time.sleep(timeout) or ([], refs)
    with pytest.raises(WorkerError, match=r"the first process of policy has not started after 0 s; `ray status` .*"):
        start_policy(RunConfig())
    first_process.kill.assert_called_once()


@pytest.mark.wrong_types
def test_a_first_process_that_dies_is_named(first_process):
    first_process.wait.return_value = (["answer"], [])
    first_process.get.side_effect = RayActorError()
    with pytest.raises(
        WorkerError, match=r"the first process of policy could not start: The actor experienced an error"
    ):
        start_policy(RunConfig())


@pytest.mark.wrong_types
def test_every_rank_starts_in_its_bundle(first_process, monkeypatch):
    """Bundles 0 and 2 are on one node, and 1 and 3 on another. All ranks start before the first one answers."""
    bundles = MagicMock(side_effect=lambda _, bundle: bundle)
    monkeypatch.setattr(placement, "PlacementGroupSchedulingStrategy", bundles)
    monkeypatch.setattr(placement, "bundles_by_node", lambda _: [0, 2, 1, 3])
    start = first_process.remote.return_value.return_value
    config = replace(RunConfig(), actor=ActorConfig(num_nodes=2, num_gpus_per_node=2))
    placement.model_group("policy", placement.PolicyActor, config, MagicMock(), 0.5)
    first_process.wait.assert_not_called()
    first_process.remote.assert_called_once_with(num_gpus=0.5, num_cpus=0.5)
    assert [call.kwargs["scheduling_strategy"] for call in start.options.call_args_list] == [0, 2, 1, 3]
    started = [call.args for call in start.options.return_value.remote.call_args_list]
    meeting = [start.options.return_value.remote.return_value.get_master_addr_port.remote.return_value]
    assert started == [(4, 0), *((4, rank, meeting) for rank in (1, 2, 3))]
    placement.rollout_group(MagicMock())
    assert [call.kwargs["scheduling_strategy"] for call in start.options.call_args_list][4:] == [0, 2, 1, 3]
