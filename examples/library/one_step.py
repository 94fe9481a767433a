"""Trains the tiny policy with UniGRPO in this process, without Ray, with a reward function of this file.

Run it in the folder of the project: python examples/library/one_step.py [STEPS]
"""

import sys

import unigrpo


def ends_right(*, completions: list[str], labels: list[str]) -> list[float]:
    """Rewards completions that end with the gold answer."""
    return [float(text.endswith(label)) for text, label in zip(completions, labels, strict=True)]


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1
config = unigrpo.RunConfig.from_yaml(
    "launch/configs/tiny_text.yaml", {"train.num_steps": steps, "rollout.batch_size": 4, "eval.dataset": ""}
)
with unigrpo.LocalTrainer(config, rewards={"ends_right": ends_right}) as trainer:
    for step in range(1, steps + 1):
        metrics = trainer.step()
        print(f"step {step}: reward {metrics['reward/total_mean']:.3f}, KL {metrics['kl/reference_nats']:.4f} nats")
