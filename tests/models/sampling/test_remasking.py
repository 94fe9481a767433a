"""Tests which tokens are fixed."""

from __future__ import annotations

import torch

from unigrpo.models.sampling.remasking import at_least, most_confident

INF = float("inf")


def test_of_equal_confidences_the_first_token_is_fixed():
    confidence = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.1, 0.9, 0.1, 0.9]])
    assert most_confident(confidence, 3).tolist() == [[True, True, True, False], [True, True, False, True]]
    assert most_confident(torch.full((1, 2000), 0.5), 700).nonzero()[:, 1].tolist() == list(range(700))


def test_a_confidence_of_minus_infinity_is_never_fixed():
    confidence = torch.tensor([[-INF, 0.2, -INF, 0.1], [-INF, -INF, -INF, -INF]])
    expected = [[False, True, False, True], [False] * 4]
    assert most_confident(confidence, 3).tolist() == expected
    assert at_least(confidence, 0.0).tolist() == expected


def test_the_largest_confidence_is_fixed_even_below_the_threshold():
    confidence = torch.tensor([[0.2, 0.3, -INF], [0.7, 0.9, 0.8]])
    assert at_least(confidence, 0.8).tolist() == [[False, True, False], [False, True, True]]
