"""TraceRL: the views are the steps of the sampler, and each view scores the tokens that were fixed next."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.algorithm.likelihood.base import LikelihoodEstimator, Row, Views


class Trace(LikelihoodEstimator):
    """log pi(o) = sum over steps s of log p(tokens of step s | prompt, tokens of the steps before s).

    A view masks the tokens of its own steps and of all later steps, and the tokens that the sampler never fixed. The
    mask ratio of the inner update is not used. If no steps are merged and all views are kept, the sum is the
    log-probability of the tokens that the sampler chose (but not of the positions that it chose).

    Args:
        steps_per_view: Number of steps that are merged into one view. With more than 1 the cost is lower, and fewer
            tokens are visible than in the sampler.
        num_views: Number of views of a response part that are kept, drawn for every inner update; 0 keeps all.
        choose: How views are chosen: `uniform`, or `uncertain`, with probabilities proportional to
            exp(-mean log-probability of the view's tokens when they were fixed / temperature).
        temperature: Temperature of `uncertain`, nats.

    Source:
        TraceRL, arXiv:2509.06949, section 4, which keeps all views. With ``steps_per_view`` 1, CJ-GRPO,
        arXiv:2509.23924. `uncertain` with 4 views: Drift, arXiv:2605.25638.
    """

    def __init__(
        self, steps_per_view: int = 1, num_views: int = 0, choose: str = "uniform", temperature: float = 1.0
    ) -> None:
        if steps_per_view < 1:
            raise ConfigError(f"trace: steps_per_view is {steps_per_view}; use at least 1")
        if num_views < 0:
            raise ConfigError(f"trace: num_views is {num_views}; use 0 for all views, or a number above it")
        if choose not in ("uniform", "uncertain"):
            raise ConfigError(f"trace: choose: no {choose!r}; choose one of ['uncertain', 'uniform']")
        if not temperature > 0:
            raise ConfigError(f"trace: temperature is {temperature}; it must be above 0")
        self._steps_per_view, self._num_views = steps_per_view, num_views
        self._choose: str = choose
        self._temperature = temperature

    def span_views(
        self, row: Row, mask_ratio: float, generator: torch.Generator, bounds: tuple[float, float]
    ) -> Views:
        _require_steps(row)
        is_masked, scored = trace_views(row.commit_step, row.scored_mask, self._steps_per_view)
        is_masked = is_masked | (row.response_mask & (row.commit_step < 0))
        kept = scored.any(dim=1).nonzero().flatten()
        if 0 < self._num_views < len(kept):
            kept = kept[self._kept(scored[kept], row.commit_log_probs, generator)]
        weight = scored[kept].float()
        return Views(is_masked=is_masked[kept], weight=weight, rate=torch.ones_like(weight))

    def _kept(
        self, scored: Bool[Tensor, "V L"], log_probs: Float[Tensor, " L"], generator: torch.Generator
    ) -> Int[Tensor, " K"]:
        """Returns the indices of the kept views in order, drawn without replacement by the Gumbel-max trick."""
        keys = -torch.empty(len(scored)).exponential_(generator=generator).log()
        if self._choose == "uncertain":
            keys = keys - (scored * log_probs).sum(dim=1) / scored.sum(dim=1) / self._temperature
        return keys.topk(self._num_views).indices.sort().values


def trace_views(
    commit_step: Int[Tensor, " L"], scored: Bool[Tensor, " L"], steps_per_view: int
) -> tuple[Bool[Tensor, "V L"], Bool[Tensor, "V L"]]:
    """Returns the views of the sampler: one view for each group of steps, whose tokens it scores.

    >>> masked, scored = trace_views(torch.tensor([-1, 2, 0, 1]), torch.tensor([False, True, True, True]), 2)
    >>> masked.int().tolist(), scored.int().tolist()
    ([[0, 1, 1, 1], [0, 1, 0, 0]], [[0, 0, 1, 1], [0, 1, 0, 0]])

    Args:
        commit_step: Step at which the sampler fixed each token; -1 for tokens that it did not fix.
        scored: Tokens that may be scored; the others are masked by their step, but never scored.
        steps_per_view: Number of steps that are merged into one view, from the first; the last view may have fewer.

    Returns:
        The tokens that each view masks, which are those of its steps and of all later steps, and those that it scores.
    """
    steps = torch.tensor(sorted({int(step) for step in commit_step if step >= 0}), device=commit_step.device)
    if len(steps) == 0:
        nothing = scored.new_zeros(0, len(scored))
        return nothing, nothing
    view = torch.searchsorted(steps, commit_step) // steps_per_view
    view = torch.where(commit_step >= 0, view, -1)
    number = torch.arange(int(view.max()) + 1, device=view.device)[:, None]
    return view >= number, (view == number) & scored


def _require_steps(row: Row) -> None:
    """Raises ConfigError if a scored token has no step."""
    if (row.commit_step[row.scored_mask] < 0).any():
        raise ConfigError(
            "trace: a scored token has no commit step; the rollout must record at which step each token was fixed"
        )
