"""TraceRL's parts: a response replayed in the order in which it was written, and advantages by step of that order.

Source: TraceRL, arXiv:2509.06949, section 4.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo import ConfigError


def trace_views(
    commit_step: Int[Tensor, " L"], scored: Bool[Tensor, " L"], steps_per_view: int
) -> tuple[Bool[Tensor, "V L"], Bool[Tensor, "V L"]]:
    """Views of a response as its writer saw it: one for each group of steps, which are scored in it.

    >>> hidden, scored = trace_views(torch.tensor([-1, 2, 0, 1]), torch.tensor([False, True, True, True]), 2)
    >>> hidden.int().tolist(), scored.int().tolist()
    ([[0, 1, 1, 1], [0, 1, 0, 0]], [[0, 0, 1, 1], [0, 1, 0, 0]])

    Args:
        commit_step: Step at which the sampler fixed each token; -1 where none was.
        scored: Tokens that count; the others are hidden like their step, and never scored.
        steps_per_view: Steps that are merged into one view, from the first; the last view may have fewer.

    Returns:
        Tokens that each view hides: those of its steps and of all later ones; and those that it scores.

    Raises:
        ValueError: ``steps_per_view`` is below 1.
    """
    if steps_per_view < 1:
        raise ConfigError(f"steps_per_view is {steps_per_view}; use at least 1")
    steps = torch.tensor(sorted({int(step) for step in commit_step if step >= 0}), device=commit_step.device)
    if len(steps) == 0:
        nothing = scored.new_zeros(0, len(scored))
        return nothing, nothing
    view = torch.searchsorted(steps, commit_step) // steps_per_view
    view = torch.where(commit_step >= 0, view, -1)
    number = torch.arange(int(view.max()) + 1, device=view.device)[:, None]
    return view >= number, (view == number) & scored


def step_advantages(
    values: Float[Tensor, "R L"],
    scored: Bool[Tensor, "R L"],
    sequence: Int[Tensor, " R"],
    step: Int[Tensor, " R"],
    rewards: Float[Tensor, " S"],
    *,
    discount: float,
    decay: float,
) -> tuple[Float[Tensor, "R L"], Float[Tensor, "R L"]]:
    """Generalised advantages over the steps of a response, with a value for each token.

    A step's value is the mean over its scored tokens, and the reward comes with the last step. The advantage of a
    token is measured from its own value: ``r + discount V' - V_token + discount decay A'`` with value and advantage of
    the next step.

    Args:
        values: Of each token, in the units of the reward.
        scored: Tokens of each row's step; a row without any is left out.
        sequence: Response of each row.
        step: Order of the rows of one response.
        rewards: Of each response.
        discount: Gamma.
        decay: Lambda.

    Returns:
        Advantages and discounted returns; 0 where not scored.
    """
    advantages, returns = torch.zeros_like(values), torch.zeros_like(values)
    for number, reward in enumerate(rewards):
        rows = ((sequence == number) & scored.any(dim=1)).nonzero().flatten()
        value = advantage = later = values.new_zeros(())  # of the next step; there is none behind the last
        for i, row in enumerate(rows[step[rows].argsort(descending=True)]):
            now = scored[row]
            own = reward if i == 0 else torch.zeros_like(reward)
            gain = own + discount * (value + decay * advantage)
            later = own + discount * later
            value = values[row, now].mean()
            advantage = gain - value
            advantages[row, now] = gain - values[row, now]
            returns[row, now] = later
    return advantages, returns
