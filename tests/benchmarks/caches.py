"""Measures how caches change tokens, log-probabilities and rewards of a trained checkpoint on held-out prompts.

python tests/benchmarks/caches.py [--config launch/configs/tiny/unigrpo.yaml]

All variants sample with the same random numbers. Log-probabilities are compared with those of the training path on the
same input. Images are sampled without guidance for this, because guidance changes the recorded log-probabilities.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from measure import write

from unigrpo.batches import TrajectoryBatch
from unigrpo.checks.unigrpo import held_out_prompts
from unigrpo.config import ImageSamplingConfig, RunConfig, TextSamplingConfig
from unigrpo.config.parsing import config_from_args, parse, run_parser
from unigrpo.data.prompt_stream import repeat_prompts
from unigrpo.evaluation.held_out import EVALUATION_STEP
from unigrpo.models.checkpoint_io import load_policy
from unigrpo.models.loading import find_image_tokenizer, load_tokenizer
from unigrpo.records import Prompt, Rollout
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.training.reward_aggregation import RewardAggregator
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.reward import LocalRewards

ROOT = Path(__file__).parents[2]
TEXT: dict[str, dict[str, object]] = {
    "none": {},
    "prefix": {"cache": "prefix"},
    "dual": {"cache": "dual"},
    "none, threshold 0.9": {"threshold": 0.9},
    "dual, threshold 0.9": {"cache": "dual", "threshold": 0.9},
}
IMAGE: dict[str, dict[str, object]] = {"none": {}, "text": {"cache": "text"}}


@dataclass(frozen=True)
class Setup:
    """A checkpoint, its rewards and the prompts of one task."""

    config: RunConfig
    policy: PolicyWorker
    rewards: LocalRewards
    prompts: list[Prompt]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "launch/configs/tiny/unigrpo.yaml"))
    parser.add_argument("--max_samples", type=int, default=0, help="held-out prompts; 0 takes all")
    flags = parser.parse_args()
    arguments = ["--config", flags.config, "--eval.max_samples", str(flags.max_samples)]
    config: RunConfig = config_from_args(parse(run_parser("caches", "", RunConfig), arguments), RunConfig)
    name = config.actor.model_name_or_path
    model = load_policy(name, torch.float32, config.ds.attn_implementation)
    policy = PolicyWorker(
        config,
        LocalEngine(model, config.actor, 1),
        load_tokenizer(name),
        find_image_tokenizer(config.image.tokenizer, name),
    )
    rewards, prompts = LocalRewards(config.reward), held_out_prompts(config)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for task in dict.fromkeys(prompt.task for prompt in prompts):
        setup = Setup(config, policy, rewards, [prompt for prompt in prompts if prompt.task == task])
        found[task] = compared(setup, IMAGE if task == "t2i" else TEXT)
    rewards.close()
    write(
        "caches",
        [],
        model=name,
        prompts=len(prompts),
        samples_per_prompt=config.eval.n_samples_per_prompt,
        tasks=found,
    )


def compared(setup: Setup, variants: dict[str, dict[str, object]]) -> dict[str, dict[str, float]]:
    """Compares each variant with the first one."""
    plain: list[list[Rollout]] = []
    results: dict[str, dict[str, float]] = {}
    for name, changes in variants.items():
        greedy = drawn(setup, changes, 1, temperature=0.0)
        sampled = drawn(setup, changes, setup.config.eval.n_samples_per_prompt)
        plain = plain or [greedy, sampled]
        unguided = sampled if setup.prompts[0].task != "t2i" else drawn(setup, changes, 1, guidance_scale=0.0)
        gaps = setup.policy.logprob_mismatch(TrajectoryBatch.of(unguided))
        results[name] = {
            "equal_tokens_greedy": equal_tokens(plain[0], greedy),
            "equal_tokens_sampled": equal_tokens(plain[1], sampled),
            "largest_log_prob_difference": max(gap.largest for gap in gaps),
            "mean_log_prob_difference": sum(g.total for g in gaps) / sum(g.num_tokens for g in gaps),
            "reward_greedy": mean_reward(setup, greedy),
            "reward_sampled": mean_reward(setup, sampled),
            "passes_per_sample": sum(num_steps(r) for r in sampled) / len(sampled),
        }
    return {name: {key: round(value, 5) for key, value in values.items()} for name, values in results.items()}


def drawn(setup: Setup, changes: dict[str, object], num_samples: int, **more: float) -> list[Rollout]:
    """Returns rollouts of all prompts. The changes apply to the settings of text or image that have such a field."""
    rollout = setup.config.rollout
    text: TextSamplingConfig = replace(rollout.text, **known(rollout.text, {**changes, **more}))
    image: ImageSamplingConfig = replace(rollout.image, **known(rollout.image, {**changes, **more}))
    if more.get("temperature") == 0.0:
        image = replace(image, remasking_temperature=0.0)
    requests = repeat_prompts(setup.prompts, num_samples, EVALUATION_STEP)
    return setup.policy.generate(requests, 0, text, image).rollouts([request.prompt for request in requests])


def known(settings: object, changes: dict[str, object]) -> dict[str, object]:
    """Returns the changes that apply to these settings; the cache of images does not apply to texts."""
    own = {name: value for name, value in changes.items() if hasattr(settings, name)}
    is_text = isinstance(settings, TextSamplingConfig)
    if is_text:
        own.pop("guidance_scale", None)
    if (own.get("cache") == "text") == is_text:
        own.pop("cache", None)
    return own


def equal_tokens(first: Sequence[Rollout], second: Sequence[Rollout]) -> float:
    """Returns the fraction of equal response tokens, up to the end-of-text of the longer response."""
    equal = total = 0
    for one, other in zip(first, second, strict=True):
        places = one.scored_mask | other.scored_mask
        equal += int((one.token_ids == other.token_ids)[places].sum())
        total += int(places.sum())
    return equal / total


def mean_reward(setup: Setup, rollouts: Sequence[Rollout]) -> float:
    """Returns the mean of the weighted total reward."""
    outputs, _ = setup.rewards.score(list(rollouts))
    groups = torch.tensor([r.key.group_id for r in rollouts])
    totals, valid = RewardAggregator(setup.config.reward, setup.rewards.names).aggregate(outputs, groups)
    return totals[valid].mean().item()


def num_steps(rollout: Rollout) -> int:
    """Returns the number of forward passes in which a token was fixed."""
    return len(rollout.commit_step[rollout.commit_step >= 0].unique())


if __name__ == "__main__":
    main()
