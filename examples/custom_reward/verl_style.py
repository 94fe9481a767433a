"""A reward function that was written for verl (`custom_reward_function.path`) runs unchanged, one sample at a time."""


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """Returns the score; the other numbers are logged as metrics."""
    return {"score": float(solution_str.strip().endswith(str(ground_truth))), "length": len(solution_str)}
