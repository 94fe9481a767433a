"""GMPO: the geometric mean of token ratios, each of which is clipped."""

from __future__ import annotations

import torch

from unigrpo.algorithm.entries import Columns, Entries, per_unit, regrouped, units
from unigrpo.algorithm.kl import MAX_LOG_RATIO
from unigrpo.algorithm.objective.base import Objective, UnitLosses, old_log_probs, weighted_sum


class Geometric(Objective):
    """-A exp(mean over the scored tokens of a response part of the clipped log-ratio of the token).

    The log-ratio of a token is clipped to at most log(1 + clip_high) if A is positive, and to at least
    log(1 - clip_low) if A is negative, as in the clipped surrogate. The views of a token are added up before its ratio
    is computed. The metrics count a part as clipped if all its tokens are clipped.

    Source:
        GMPO, arXiv:2507.20673, equation 4, whose bounds are exp(-0.4) and exp(0.4):
        ``actor.eps_clip_low_high`` [0.33, 0.49].
    """

    level = "span"

    def losses(self, entries: Entries, columns: Columns) -> UnitLosses:
        tokens, spans = units(entries, columns, "token"), units(entries, columns, self.level)
        log_ratio = weighted_sum(entries.log_probs - old_log_probs(entries), entries, tokens, "none")
        log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        advantage = columns.advantage[tokens.sample, tokens.span]
        highest = torch.log1p(columns.clip_high[tokens.sample])
        lowest = torch.log1p(-columns.clip_low[tokens.sample])
        held = torch.where(advantage >= 0, torch.minimum(log_ratio, highest), torch.maximum(log_ratio, lowest))
        inside = regrouped(tokens, spans, columns)
        count = per_unit(torch.ones_like(held), inside)
        loss = -columns.advantage[spans.sample, spans.span] * (per_unit(held, inside) / count).exp()
        clipped = per_unit((held != log_ratio).to(held.dtype), inside)
        return UnitLosses(
            units=spans,
            loss=loss,
            log_ratio=(per_unit(log_ratio, inside) / count).detach(),
            is_clipped=clipped == count,
        )
