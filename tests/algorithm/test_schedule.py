"""Compares mask schedules with the numbers of the original code and with their defining values."""

from __future__ import annotations

import math

import pytest
import torch

from unigrpo.algorithm.schedule import masked_fraction

SCHEDULES = ["cosine", "linear", "pow2", "pow0.5", "pow3", "sigmoid"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_those_of_the_original_code(golden, schedule):
    _, arrays = golden("mask_schedules")
    torch.testing.assert_close(masked_fraction(schedule, arrays["in.t"]), arrays[f"out.{schedule}"], rtol=0, atol=2e-6)


def test_the_sigmoid_depends_on_its_ends_and_width(golden):
    _, arrays = golden("mask_schedules")
    share = masked_fraction("sigmoid", arrays["in.t"], start=-2.0, end=4.0, tau=0.7)
    torch.testing.assert_close(share, arrays["out.sigmoid_start-2_end4_tau0.7"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_falls_from_one_to_about_zero(schedule):
    share = masked_fraction(schedule, torch.linspace(0, 1, 1001))
    assert share[0].item() == pytest.approx(1.0)
    assert share[-1].item() == pytest.approx(0.0, abs=1e-6)
    assert (share.diff() <= 0).all()
    assert ((share >= 0) & (share <= 1)).all()


def test_cosine_at_one_third_is_half_the_root_of_three():
    assert masked_fraction("cosine", torch.tensor([1 / 3])).item() == pytest.approx(math.sqrt(3) / 2)


@pytest.mark.parametrize("schedule", ["cos", "pow", "powx", "pow-1", "pownan", ""])
def test_a_wrong_schedule_is_refused(schedule):
    with pytest.raises(ValueError, match="mask schedule"):
        masked_fraction(schedule, torch.tensor([0.5]))
