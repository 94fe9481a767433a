"""A reward function that was written for OpenRLHF (`--reward.remote_url file.py`) runs unchanged."""

import torch


def reward_func(queries, prompts, labels):
    """Scores queries, each of which is a prompt followed by its response."""
    responses = [query[len(prompt) :] for query, prompt in zip(queries, prompts, strict=True)]
    rewards = torch.tensor(
        [float(label is not None and label in text) for text, label in zip(responses, labels, strict=True)]
    )
    return {"rewards": rewards, "scores": rewards, "extra_logs": {"mean_length": float(sum(map(len, responses)))}}
