"""A reward function written for TRL's GRPOTrainer runs as it is: chat messages, and columns of the data as lists."""


def accuracy_reward(completions, answer, **kwargs):
    """`answer` is a column of the prompt file; the gold answer of a prompt counts as one."""
    contents = [completion[0]["content"] for completion in completions]
    return [float(str(gold) in content) for content, gold in zip(contents, answer, strict=True)]
