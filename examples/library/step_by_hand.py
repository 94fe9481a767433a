"""Makes a step of UniGRPO in its parts: samples, rewards, advantages, old log-probabilities, inner updates.

Run it in the folder of the project: python examples/library/step_by_hand.py
"""

import torch

import unigrpo

config = unigrpo.RunConfig.from_yaml(
    "launch/configs/tiny_text.yaml", {"rollout.batch_size": 4, "algo.kl.init_coef": 0, "train.num_inner_updates": 2}
)
policy = unigrpo.Policy.from_pretrained(config.actor.model_name_or_path, dtype="float32")
worker = policy.worker(config)  # the policy with an AdamW optimizer

# Generate a group of samples for each prompt. The random numbers of a sample depend only on seed, step and sample_id.
prompts = unigrpo.load_prompts("examples/tiny/prompts/train.jsonl")[: config.rollout.batch_size]
size = config.rollout.n_samples_per_prompt
requests = [
    unigrpo.SampleRequest(prompt=prompts[i // size], group_id=i // size, sample_id=i, step=0)
    for i in range(size * len(prompts))
]
generated = worker.generate(requests, 0, config.rollout.text, config.rollout.image)  # 0 is the version of the weights
rollouts = generated.rollouts([request.prompt for request in requests])

# Compute the rewards, and the advantages of the samples within their groups.
reward = unigrpo.load_reward("math_answer")
inputs = [unigrpo.RewardInput(prompt=r.prompt.text, completion=r.completion, label=r.prompt.label) for r in rollouts]
rewards = torch.tensor([value or 0.0 for value in reward(inputs)])
advantages = unigrpo.group_advantages(rewards, torch.tensor([r.key.group_id for r in rollouts]))

# Compute the views of a sample in the first inner update, and the log-probabilities of their masked tokens.
views = unigrpo.ViewSampler(config).views(rollouts[0], 0)
old = worker.log_likelihood(unigrpo.TrajectoryBatch.of(rollouts)).rows()
assert old[0] is not None
print("views of the first sample:", type(views).__name__, "scored tokens:", len(old[0][0]))

samples = [
    unigrpo.TrainSample(rollout=rollout, advantages=(advantage,), is_valid=True, old_log_probs=log_probs)
    for rollout, advantage, log_probs in zip(rollouts, advantages.tolist(), old, strict=True)
]
metrics = worker.update(unigrpo.TrainBatch.of(samples))[0]
print("mean reward:", round(rewards.mean().item(), 3))
print("loss:", metrics["loss/policy"], "gradient norm:", metrics["grad_norm"])
