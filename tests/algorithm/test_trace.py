"""Compares the views of `trace`, which replay the order of generation, with a loop."""

from __future__ import annotations

import pytest
import torch

from unigrpo.algorithm.likelihood.trace import trace_views

STEPS = torch.tensor([-1, 4, 0, 0, 7, 2, -1])
SCORED = torch.tensor([False, True, True, True, True, False, False])


@pytest.mark.parametrize("steps_per_view", [1, 2, 3, 4, 9])
def test_a_view_shows_tokens_of_earlier_steps_and_scores_its_own_steps(steps_per_view):
    hidden, scored = trace_views(STEPS, SCORED, steps_per_view)
    order = [0, 2, 4, 7]
    groups = [order[i : i + steps_per_view] for i in range(0, 4, steps_per_view)]
    for own, is_hidden, is_scored in zip(groups, hidden, scored, strict=True):
        assert is_hidden.tolist() == [step >= own[0] for step in STEPS.tolist()]
        expected = [step in own and counts for step, counts in zip(STEPS.tolist(), SCORED.tolist(), strict=True)]
        assert is_scored.tolist() == expected
    assert torch.equal(scored.sum(dim=0), SCORED.long()), "every scored token is scored once"


def test_a_response_without_generated_tokens_has_no_view():
    hidden, scored = trace_views(torch.full((3,), -1), torch.ones(3, dtype=torch.bool), 2)
    assert hidden.shape == scored.shape == (0, 3)
