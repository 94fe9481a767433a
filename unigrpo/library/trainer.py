"""UniGRPO in one process without Ray: the loop of ``unigrpo train`` with local workers."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unigrpo import ConfigError
from unigrpo.checks.resuming import check_checkpoint
from unigrpo.checks.unigrpo import check_algorithm, check_inputs
from unigrpo.config import LoRAConfig, RewardTermConfig, RunConfig
from unigrpo.library.policy import Policy
from unigrpo.models.sampling_defaults import SamplingDefaults
from unigrpo.records import Prompt
from unigrpo.runs.checkpoints import CheckpointStore, checkpoint_path
from unigrpo.runs.directory import check_unused
from unigrpo.runs.lock import locked
from unigrpo.runs.report import write_report
from unigrpo.trainers.base import NoOutput, Output
from unigrpo.trainers.unigrpo import UniGRPOTrainer
from unigrpo.training.scoring import ScoringSettings
from unigrpo.workers.flop_meter import FlopMeter
from unigrpo.workers.group import LocalGroup
from unigrpo.workers.reference import ReferenceWorker
from unigrpo.workers.reward import LocalRewards

logger = logging.getLogger(__name__)


class LocalTrainer(UniGRPOTrainer):
    """A UniGRPO run in one process with policy, reference and rewards. The weights are float32.

    It makes the same steps as ``unigrpo train`` on one policy rank. A reward that hangs or ends its process also stops
    this process, so use ``unigrpo train`` for long runs.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        prompts: Sequence[Prompt] | None = None,
        eval_prompts: Sequence[Prompt] = (),
        policy: Policy | None = None,
        rewards: Mapping[str, Callable[..., Any]] | None = None,
        device: str = "auto",
    ) -> None:
        """Checks the run and builds its workers.

        Args:
            config: The run.
            prompts: Prompts to train on; None reads and checks those of ``data.prompt_dataset``, and the held-out
                prompts of ``eval.dataset``.
            eval_prompts: Held-out prompts; used only if `prompts` is given.
            policy: The policy, which is trained in place; None loads ``actor.model_name_or_path``.
            rewards: Reward functions by name, in a convention of :mod:`rewards.functions`. They replace
                ``reward.terms``; each has weight 1 and scores every task.
            device: Device of policy and reference, if `policy` is None.

        Raises:
            ConfigError: A setting is wrong, or the run needs more than one process.
            DataError: A prompt is wrong.
            CheckpointError: The policy cannot be loaded.
        """
        _check_one_process(config)
        if rewards is not None:
            terms = tuple(RewardTermConfig(name=name) for name in rewards)
            config = replace(config, reward=replace(config.reward, terms=terms))
        scorer = LocalRewards(config.reward, rewards or {})
        if prompts is None:
            # Rewards are asked about prompts in processes of their own, to which functions of this one cannot travel.
            inputs = check_inputs(config, asks_rewards=rewards is None)
            prompts, eval_prompts = inputs.prompts, inputs.eval_prompts
        else:
            check_algorithm(config)
        if policy is None:
            loaded = Policy.from_pretrained(
                config.actor.model_name_or_path,
                image_tokenizer=config.image.tokenizer,
                device=device,
                dtype="float32",
                attn_implementation=config.ds.attn_implementation,
                compile=config.ds.compile,
            )
            policy = replace(loaded, sampling=SamplingDefaults.of_run(config))
        if config.ds.param_dtype != "fp32":
            logger.info("ds.param_dtype is %s; a run in one process trains in float32", config.ds.param_dtype)
        self.trained_policy = policy
        """The policy, whose weights change with every step."""
        reference = _reference(config, policy) if config.has_reference_workers else None
        super().__init__(
            config,
            policy=LocalGroup(policy.worker(config)),
            reference=reference,
            reward=scorer,
            prompts=list(prompts),
            eval_prompts=list(eval_prompts),
            checkpoints=CheckpointStore(checkpoint_path(config), config.ckpt.max_num),
        )

    def __enter__(self) -> LocalTrainer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def step(self, output: Output | None = None) -> dict[str, float]:
        """Makes one step: it generates samples, scores them and updates the policy.

        Args:
            output: Destination of the step's samples; None writes nothing.

        Returns:
            The metrics of the step, by name; docs/metrics.md explains each.
        """
        values = self._timed_step(self.state.step, output or NoOutput())
        self.state.step += 1
        return values

    def train(self) -> dict[str, Any]:
        """Makes all remaining steps and writes the run directory with metrics, checkpoints, policy and report.

        Returns:
            The summary: steps, seconds, and the held-out metrics before and after.

        Raises:
            ConfigError: The run directory already holds a run, and ``ckpt.load_enable`` is false.
        """
        config, folder = self.config, Path(self.config.run_dir).resolve()
        with locked(folder, "run_dir"), locked(checkpoint_path(config), "ckpt.path"):
            check_unused(config)
            check_checkpoint(config, self.checkpoints)
            summary = self.run()
        write_report(folder)
        return summary

    def close(self) -> None:
        """Ends the threads of the workers and closes the rewards."""
        self.reward.close()
        for group in self.groups.values():
            group.close()


def _check_one_process(config: RunConfig) -> None:
    """Raises ConfigError for a run that needs more than one process."""
    if config.actor.num_ranks > 1:
        raise ConfigError(
            f"the policy has {config.actor.num_ranks} ranks (actor.num_nodes x actor.num_gpus_per_node), and "
            "LocalTrainer is one process; set both to 1, or use `unigrpo train`"
        )
    if config.rollout.num_workers:
        raise ConfigError(
            f"rollout.num_workers is {config.rollout.num_workers}, and LocalTrainer has no other process; set it to "
            "0, or use `unigrpo train`"
        )


def _reference(config: RunConfig, policy: Policy) -> LocalGroup:
    """Returns a frozen copy of the policy as it is before the first step."""
    frozen = copy.deepcopy(policy.model).eval().requires_grad_(False)
    settings = ScoringSettings.of_run(config, policy.vocabulary)
    meter = FlopMeter(frozen, LoRAConfig())
    return LocalGroup(ReferenceWorker(config, frozen, frozen.device, settings, meter))
