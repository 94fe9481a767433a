"""A reward function that was written for TRL's GRPOTrainer, with chat messages and columns as lists, runs
unchanged."""


def accuracy_reward(completions, answer, **kwargs):
    """Compares completions with `answer`, which is a column of the prompt file or the gold answer."""
    contents = [completion[0]["content"] for completion in completions]
    return [float(str(gold) in content) for content, gold in zip(contents, answer, strict=True)]
