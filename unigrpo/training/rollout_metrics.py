"""Metrics of the rollouts of a step: lengths, log-probabilities, staleness, denoising steps."""

from __future__ import annotations

from collections.abc import Sequence

from unigrpo.records import Rollout


def rollout_metrics(rollouts: Sequence[Rollout], version: int) -> dict[str, float]:
    """Returns the metrics.

    Args:
        rollouts: The samples.
        version: The policy's version in optimizer steps, from which a rollout's staleness is computed.
    """
    scored = [int(r.scored_mask.sum()) for r in rollouts]
    full = [r.is_full_length for r in rollouts if r.text_mask.any()]
    log_probs = sum(float(r.commit_log_probs[r.scored_mask].sum()) for r in rollouts)
    entropy = sum(float(r.commit_entropy[r.scored_mask].sum()) for r in rollouts if r.commit_entropy is not None)
    return {
        "rollout/length_mean": sum(scored) / len(scored),
        "rollout/full_length": sum(full) / max(len(full), 1),
        "rollout/commit_log_prob_mean": log_probs / max(sum(scored), 1),
        "rollout/entropy_mean": entropy / max(sum(scored), 1),
        "rollout/staleness": float(max(version - r.policy_version for r in rollouts)),
        "rollout/denoising_steps_mean": sum(_num_steps(r) for r in rollouts) / len(rollouts),
    }


def _num_steps(rollout: Rollout) -> int:
    steps = rollout.commit_step[rollout.response_mask]
    return int(steps[steps >= 0].unique().numel())
