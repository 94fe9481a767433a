"""A small batch on which objectives and reductions are tested."""

from __future__ import annotations

import dataclasses

import torch

from unigrpo.algorithm.entries import (
    Columns,
    Counts,
    Entries,
    tokens_of,
    unit_counts,
    units,
    unscored_entries,
)
from unigrpo.algorithm.likelihood.base import Views
from unigrpo.algorithm.objective.base import KLPenalty, total_loss
from unigrpo.config.algo import LEVELS
from unigrpo.rng import keyed_generator


@dataclasses.dataclass(frozen=True)
class Batch:
    """Six samples of two groups and two tasks. The last two samples have two spans. Views overlap, and weights are
    arbitrary."""

    entries: Entries
    columns: Columns

    def counts(self, levels=LEVELS):
        sizes = {level: tokens_of(units(self.entries, self.columns, level)) for level in levels}
        return Counts(num_responses=float(self.columns.num_samples), num_tokens=sizes)


def make_batch(dtype=torch.float64, num_views=3, uniform=False) -> Batch:
    generator = keyed_generator("objectives", num_views)
    spans = [torch.tensor([0, 0, *[1] * 6, 0])] * 4 + [torch.tensor([0, *[1] * 4, 0, *[2] * 3])] * 2
    views = []
    for span in spans:
        parts = []
        for number in range(1, int(span.max()) + 1):
            inside = span == number
            rate = 0.2 + 0.8 * torch.rand(num_views, 1, generator=generator)
            masked = (torch.rand(num_views, len(span), generator=generator) < rate) & inside
            masked[0, int(inside.nonzero()[0])] = True
            weight = masked * (1.0 if uniform else 0.3 + torch.rand(masked.shape, generator=generator))
            parts.append(Views(is_masked=masked, weight=weight.float(), rate=rate.expand(weight.shape)))
        views.append(Views.joined(parts, len(span)))
    entries = unscored_entries(views, spans)
    count = len(entries)
    draws = torch.rand(5, count, generator=generator, dtype=torch.float64)
    log_probs = -3 * draws[0]
    entries = dataclasses.replace(
        entries,
        log_probs=log_probs.to(dtype),
        old=(log_probs + 0.8 * (draws[1] - 0.5)).to(dtype),
        ref=(log_probs + draws[2] - 0.5).to(dtype),
        behaviour=(log_probs + draws[3] - 0.5).to(dtype),
        exact_kl=draws[4].to(dtype),
        weight=entries.weight.to(dtype),
        rate=entries.rate.to(dtype),
    )

    def column(*values):
        return torch.tensor(values, dtype=dtype)

    columns = Columns(
        advantage=torch.stack([column(1.0, -1.0, 0.5, -2.0, 0.7, -0.7), column(0, 0, 0, 0, 0.2, -0.4)], dim=1),
        group=torch.tensor([4, 4, 9, 9, 7, 7]),
        task=torch.tensor([0, 0, 0, 0, 1, 1]),
        num_tokens=torch.stack([column(6, 6, 6, 6, 4, 4), column(0, 0, 0, 0, 3, 3)], dim=1),
        num_views=torch.stack([column(*[num_views] * 6), column(0, 0, 0, 0, num_views, num_views)], dim=1),
        max_tokens=column(8, 8, 8, 8, 10, 10),
        clip_low=column(0.2, 0.2, 0.2, 0.1, 0.3, 0.2),
        clip_high=column(0.2, 0.28, 0.2, 0.2, 0.2, 0.1),
        kl_coef=column(0.1, 0.1, 0.1, 0.1, 0.0, 0.3),
        loss_coef=column(1.0, 1.0, 1.0, 1.0, 0.5, 0.5),
        num_units={},
        row_length=9,
        tasks=("text", "r2i"),
    )
    num_units = {level: unit_counts(units(entries, columns, level), columns) for level in LEVELS}
    return Batch(entries, dataclasses.replace(columns, num_units=num_units))


BATCH = make_batch()


def whole_loss(batch, objective, kl, how="masked_token_mean"):
    counts = batch.counts()
    return lambda entries: total_loss(objective, kl, entries, batch.columns, counts, how)


def with_log_probs(batch, log_probs):
    return dataclasses.replace(batch.entries, log_probs=log_probs)


def loss_and_gradient(batch, objective, kl=None, how="masked_token_mean"):
    leaf = batch.entries.log_probs.clone().requires_grad_()
    loss, sums = whole_loss(batch, objective, kl or KLPenalty(), how)(with_log_probs(batch, leaf))
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient, sums


def part(batch, samples):
    """Returns some of the samples as a separate pass."""
    index = torch.tensor(samples)
    place = torch.full((batch.columns.num_samples,), -1)
    place[index] = torch.arange(len(samples))
    entries = batch.entries.at((place[batch.entries.sample] >= 0).nonzero().flatten())
    entries = dataclasses.replace(entries, sample=place[entries.sample])
    return Batch(entries, batch.columns.at(index, batch.columns.row_length))


def dense(batch, values):
    """Returns the values of entries as a tensor (V, B, L), which is 0 elsewhere."""
    entries, columns = batch.entries, batch.columns
    table = values.new_zeros(int(entries.view.max()) + 1, columns.num_samples, columns.row_length)
    table[entries.view, entries.sample, entries.position] = values
    return table
