"""SPG: a lower bound of the log-likelihood for good responses, and an upper bound for bad ones."""

from __future__ import annotations

import torch

from unigrpo import ConfigError
from unigrpo.algorithm.entries import Columns, Entries, by_unit, per_unit, regrouped, units
from unigrpo.algorithm.objective.base import Objective, UnitLosses, weighted_sum


class Sandwich(Objective):
    """-A L of every response part, with L = ELBO where A >= 0 and mix EUBO + (1 - mix) ELBO where A < 0.

    ELBO is the weighted sum of the log-probabilities divided by the number of tokens of the part. With the likelihood
    `block_masks`, it is the mean over the views of the mean over their masked tokens. EUBO is the mean over the scored
    tokens k of ``1/beta log(mean over the views v of [k is masked in v] p_k^beta / rate_v)``. Neither old
    log-probabilities nor clip bounds are used.

    Args:
        beta: Exponent of the upper bound, at least 1; larger is looser.
        mix: Weight of the upper bound, from 0 to 1.

    Source:
        SPG, arXiv:2510.09541, and its released code: beta 1.5 (Sudoku 1.0), mix 0.5, no KL. There the weight of a
        response is proportional to its length: ``actor.loss_agg_mode`` `token_mean`.
    """

    needs = frozenset[str]()
    level = "span"

    def __init__(self, beta: float = 1.5, mix: float = 0.5) -> None:
        if beta < 1:
            raise ConfigError(f"sandwich: beta is {beta}; use at least 1: below it the bound is none")
        if not 0 <= mix <= 1:
            raise ConfigError(f"sandwich: mix is {mix}; it must lie in [0, 1]")
        self._beta, self._mix = beta, mix

    def losses(self, entries: Entries, columns: Columns) -> UnitLosses:
        tokens, spans = units(entries, columns, "token"), units(entries, columns, self.level)
        lower = weighted_sum(entries.log_probs, entries, spans, "tokens")
        terms = self._beta * entries.log_probs - entries.rate.log()
        num_views = columns.num_views[tokens.sample, tokens.span]
        token_bound = (by_unit(terms, tokens, -torch.inf).logsumexp(dim=1) - num_views.log()) / self._beta
        inside = regrouped(tokens, spans, columns)
        upper = per_unit(token_bound, inside) / per_unit(torch.ones_like(token_bound), inside)
        advantage = columns.advantage[spans.sample, spans.span]
        bound = torch.where(advantage >= 0, lower, self._mix * upper + (1 - self._mix) * lower)
        return UnitLosses(units=spans, loss=-advantage * bound)
