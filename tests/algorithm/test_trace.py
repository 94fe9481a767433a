"""Replaying the order of writing, and advantages by step, against the original code and by hand."""

from __future__ import annotations

import pytest
import torch

from unigrpo.algorithm.trace import step_advantages, trace_views

STEPS = torch.tensor([-1, 4, 0, 0, 7, 2, -1])
SCORED = torch.tensor([False, True, True, True, True, False, False])


@pytest.mark.parametrize("steps_per_view", [1, 2, 3, 4, 9])
def test_a_view_shows_what_was_written_before_and_scores_its_own_steps(steps_per_view):
    hidden, scored = trace_views(STEPS, SCORED, steps_per_view)
    order = [0, 2, 4, 7]
    groups = [order[i : i + steps_per_view] for i in range(0, 4, steps_per_view)]
    for own, is_hidden, is_scored in zip(groups, hidden, scored, strict=True):
        assert is_hidden.tolist() == [step >= own[0] for step in STEPS.tolist()]
        expected = [step in own and counts for step, counts in zip(STEPS.tolist(), SCORED.tolist(), strict=True)]
        assert is_scored.tolist() == expected
    assert torch.equal(scored.sum(dim=0), SCORED.long()), "every scored token is scored once"


def test_nothing_written_gives_no_view_and_no_merging_is_refused():
    hidden, scored = trace_views(torch.full((3,), -1), torch.ones(3, dtype=torch.bool), 2)
    assert hidden.shape == scored.shape == (0, 3)
    with pytest.raises(ValueError, match="steps_per_view is 0"):
        trace_views(STEPS, SCORED, 0)


@pytest.mark.parametrize("case", ["gamma1.0_lambda1.0", "gamma0.9_lambda0.95"])
def test_advantages_by_step_are_those_of_the_original_code(golden, case):
    params, arrays = golden(f"rl_gae_{case}")
    rows = torch.tensor([2, 0, 3, 1])  # in any order
    advantages, returns = step_advantages(
        arrays["in.values"][rows],
        arrays["in.loss_mask"][rows],
        arrays["in.sequence_of_row"][rows],
        arrays["in.step_of_row"][rows],
        arrays["in.reward_per_sequence"],
        discount=params["gamma"],
        decay=params["lam"],
    )
    torch.testing.assert_close(advantages, arrays["out.advantage"][rows], rtol=0, atol=1e-5)
    torch.testing.assert_close(returns, arrays["out.return"][rows], rtol=0, atol=1e-5)


def test_without_decay_and_discount_of_one_a_step_is_measured_by_the_next_value():
    values = torch.tensor([[0.2, 0.4], [0.5, 0.0], [0.9, 9.0]])
    scored = torch.tensor([[True, True], [False, True], [True, False]])
    same, steps = torch.zeros(3, dtype=torch.long), torch.tensor([0, 1, 2])
    advantages, returns = step_advantages(values, scored, same, steps, torch.tensor([2.0]), discount=1.0, decay=0.0)
    torch.testing.assert_close(advantages, torch.tensor([[0.0 - 0.2, 0.0 - 0.4], [0.0, 0.9], [1.1, 0.0]]))
    torch.testing.assert_close(returns, 2.0 * scored)
