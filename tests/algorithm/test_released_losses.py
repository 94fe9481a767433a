"""Compares ESPO, SPG and wd1 with the losses that the released code of the authors computed from random logits.

`tests/fixtures/released_losses.json` names repository, commit, file and seed of each case. It has the logits, which a
model returned to the released code for any input, the masks that the code drew, and its loss and gradient.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from unigrpo.algorithm.advantage.base import load_advantage
from unigrpo.algorithm.entries import Columns, Counts, Entries, tokens_of, unit_counts, units, unscored_entries
from unigrpo.algorithm.likelihood.base import Row, Views, span_views
from unigrpo.algorithm.likelihood.block_masks import block_view
from unigrpo.algorithm.likelihood.elbo_pair import pair_views
from unigrpo.algorithm.objective.base import KLPenalty, Objective, load_objective, total_loss
from unigrpo.config.algo import LEVELS

CASES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "released_losses.json").read_text()
)


def row_of(tokens: Sequence[int], length: int) -> Row:
    """Returns a row of a response without a prompt, whose first ``length`` tokens are scored."""
    place = torch.arange(len(tokens))
    response = torch.ones_like(place, dtype=torch.bool)
    return Row(
        token_ids=torch.tensor(tokens), response_mask=response, scored_mask=place < length,
        image_mask=~response, span=response.long(), commit_step=place, commit_log_probs=torch.zeros(len(tokens)),
    )  # fmt: skip


class Case:
    """Scored tokens of a case whose log-probabilities come from logits (B, V, L, vocabulary) in float64."""

    def __init__(self, name: str) -> None:
        self.values = CASES[name]
        self.tokens = self.values["tokens"]
        lengths = self.values.get("lengths", [len(row) for row in self.tokens])
        self.rows = [row_of(*one) for one in zip(self.tokens, lengths, strict=True)]
        self.logits = self.tensor("logits").requires_grad_()
        self.advantages = self.tensor("advantages") if "advantages" in self.values else torch.zeros(len(self.rows))

    def tensor(self, name: str) -> Tensor:
        return torch.tensor(self.values[name], dtype=torch.float64)

    def masks(self) -> Tensor:
        return torch.tensor(self.values["masks"], dtype=torch.bool)

    def entries(self, views: Sequence[Views]) -> Entries:
        found = unscored_entries(views, [row.span for row in self.rows])
        tokens = torch.tensor(self.tokens)[found.sample, found.position]
        log_probs = self.logits[found.sample, found.view, found.position].log_softmax(-1)
        return Entries(
            log_probs=log_probs.gather(1, tokens[:, None])[:, 0],
            weight=found.weight.double(), rate=found.rate.double(),
            sample=found.sample, view=found.view, position=found.position, span=found.span,
        )  # fmt: skip

    def columns(self, entries: Entries, num_views: int) -> Columns:
        number = len(self.rows)

        def column(value: float) -> Tensor:
            return torch.full((number,), value, dtype=torch.float64)

        columns = Columns(
            advantage=self.advantages[:, None].double(), group=torch.zeros(number, dtype=torch.long),
            task=torch.zeros(number, dtype=torch.long),
            num_tokens=torch.tensor([[float(row.scored_mask.sum())] for row in self.rows], dtype=torch.float64),
            num_views=column(num_views)[:, None], max_tokens=column(len(self.tokens[0])),
            clip_low=column(self.values.get("clip_low", 0.2)), clip_high=column(self.values.get("clip_high", 0.2)),
            kl_coef=column(self.values.get("kl_coef", 0.0)), loss_coef=column(1.0), num_units={},
            row_length=len(self.tokens[0]), tasks=("text",),
        )  # fmt: skip
        counts = {level: unit_counts(units(entries, columns, level), columns) for level in LEVELS}
        return Columns(**{**vars(columns), "num_units": counts})

    def check(self, entries: Entries, num_views: int, objective: Objective, how: str, times: float = 1.0) -> None:
        """Checks that loss and gradient are ``times`` those of the released code."""
        columns = self.columns(entries, num_views)
        counts = Counts(
            num_responses=float(len(self.rows)),
            num_tokens={level: tokens_of(units(entries, columns, level)) for level in LEVELS},
        )
        loss, _ = total_loss(objective, KLPenalty(estimator="k2", level="sequence"), entries, columns, counts, how)
        (gradient,) = torch.autograd.grad(loss, self.logits)
        expected = times * self.tensor("gradient").view_as(gradient)
        assert expected.abs().max() > 0.01
        # The released code computes log-probabilities or weights in float32.
        assert loss.item() == pytest.approx(times * self.values["loss"], abs=2e-7)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-7)


def shifted(entries: Entries, by_sample: Float[Tensor, " B"]) -> Tensor:
    """Returns log-probabilities whose weighted sum over each sample is lower by ``by_sample``."""
    share = by_sample / entries.sample.bincount(minlength=len(by_sample))
    return entries.log_probs.detach() - share[entries.sample] / entries.weight


def test_espo_is_the_clipped_ratio_of_bounds_with_a_squared_kl():
    case = Case("espo")
    views = [pair_views(masks[0], row, 1) for masks, row in zip(case.masks(), case.rows, strict=True)]
    for one, masks in zip(views, case.masks(), strict=True):
        assert torch.equal(one.is_masked, masks)  # the second mask is the complement
    entries = case.entries(views)
    sums = torch.zeros(len(case.rows), dtype=torch.float64)
    bound = sums.scatter_add(0, entries.sample, entries.weight * entries.log_probs.detach())
    old, reference = (shifted(entries, bound - case.tensor(name)) for name in ("old_elbo", "reference_elbo"))
    entries = Entries(**{**vars(entries), "old": old, "ref": reference})
    ratios = ((bound - case.tensor("old_elbo")) / 6).exp()
    assert ratios.min() < 0.8
    assert ratios.max() > 1.28
    case.check(entries, 2, load_objective("clipped", {"level": "sequence"}), "masked_token_mean")


@pytest.mark.parametrize(("name", "mix"), [("spg", 0.5), ("spg_eubo", 1.0)])
def test_spg_takes_a_lower_bound_for_good_responses_and_an_upper_one_for_bad_ones(name, mix):
    case = Case(name)
    assert case.advantages.min() < 0 < case.advantages.max()
    views = [
        Views.joined([block_view(mask, row, 2) for mask in masks], len(row.token_ids))
        for masks, row in zip(case.masks(), case.rows, strict=True)
    ]
    objective = load_objective("sandwich", {"beta": case.values["beta"], "mix": mix})
    case.check(case.entries(views), 2, objective, "token_mean")


def test_wd1_weights_whole_responses_by_two_softmaxes_of_their_rewards():
    """Our loss is a mean over the four responses of the group, and the released loss is a sum."""
    case = Case("wd1")
    case.advantages = load_advantage("wd1", {}).within(case.tensor("rewards"))
    case.logits = case.tensor("logits")[:, None].requires_grad_()
    views = [span_views(row.scored_mask[None], row.scored_mask[None].float(), 1.0, row) for row in case.rows]
    objective = load_objective("weighted", {"level": "sequence", "normalise": "none"})
    case.check(case.entries(views), 1, objective, "masked_token_mean", times=0.25)
