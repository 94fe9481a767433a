"""A response replayed in the order in which it was written.

Source: TraceRL, arXiv:2509.06949, section 4.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unigrpo import ConfigError


def trace_views(
    commit_step: Int[Tensor, " L"], scored: Bool[Tensor, " L"], steps_per_view: int
) -> tuple[Bool[Tensor, "V L"], Bool[Tensor, "V L"]]:
    """Views of a response as its writer saw it: one for each group of steps, which are scored in it.

    >>> masked, scored = trace_views(torch.tensor([-1, 2, 0, 1]), torch.tensor([False, True, True, True]), 2)
    >>> masked.int().tolist(), scored.int().tolist()
    ([[0, 1, 1, 1], [0, 1, 0, 0]], [[0, 0, 1, 1], [0, 1, 0, 0]])

    Args:
        commit_step: Step at which the sampler fixed each token; -1 where none was.
        scored: Tokens that count; the others are masked like their step, and never scored.
        steps_per_view: Steps that are merged into one view, from the first; the last view may have fewer.

    Returns:
        Tokens that each view masks: those of its steps and of all later ones; and those that it scores.

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
