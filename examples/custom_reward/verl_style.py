"""A reward function written for verl (`custom_reward_function.path`) runs as it is: one sample at a time."""


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """Numbers beside `score` go to the metrics."""
    return {"score": float(solution_str.strip().endswith(str(ground_truth))), "length": len(solution_str)}
