"""Tests how tokens are sampled."""

from __future__ import annotations

import pytest
import torch

from unigrpo.models.sampling.tokens import sample_tokens, sample_top_p


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 1.5])
def test_a_draw_is_the_gumbel_draw_of_the_original(golden, temperature):
    _, arrays = golden("gumbel_noise")
    logits, uniform = arrays["in.logits"].flatten(0, 1), arrays["in.uniform"].flatten(0, 1)
    drawn = sample_tokens(logits / temperature, -uniform.log())
    assert torch.equal(drawn, arrays[f"out.argmax_T{temperature}"].flatten())


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.01, [1]), (0.49, [1]), (0.51, [1, 2]), (0.76, [1, 2, 3]), (0.95, [0, 1, 2, 3])]
)
def test_top_p_samples_from_the_smallest_set_that_reaches_it(top_p, kept):
    probabilities = torch.tensor([0.1, 0.5, 0.25, 0.15])
    uniform = (torch.arange(10_000) + 0.5) / 10_000  # the centres of ten thousand equal parts of the distribution
    drawn = sample_top_p(probabilities.log().expand(len(uniform), 4), top_p, uniform)
    expected = torch.zeros(4)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    torch.testing.assert_close(drawn.bincount(minlength=4) / len(uniform), expected, atol=2e-4, rtol=0)


def test_the_largest_uniform_number_gives_the_last_token_of_the_set():
    logits = torch.tensor([[0.1, 0.5, 0.25, 0.15]]).log()
    almost_one = torch.tensor([1 - 2**-24])
    assert [sample_top_p(logits, top_p, almost_one).item() for top_p in (0.3, 0.7, 0.8, 1.0)] == [1, 2, 3, 0]


def test_an_excluded_token_is_never_sampled():
    logits = torch.tensor([[9.0, 1.0, 0.0]]).repeat(50, 1)
    noise = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    assert set(sample_tokens(logits, noise.clone()).tolist()) == {0}
    assert 0 not in sample_tokens(logits, noise, excluded=0).tolist()
