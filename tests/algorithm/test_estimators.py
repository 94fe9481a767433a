"""What every estimator that draws mask plans must do, and what each does beyond that; for views see test_views.py."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Sequence

import pytest
import torch

from unigrpo import plugins
from unigrpo.algorithm.likelihood.all_masked import AllMasked
from unigrpo.algorithm.likelihood.base import (
    PACKAGE,
    LikelihoodEstimator,
    combine_views,
    load_estimator,
    response_plan,
    scored_tokens,
)
from unigrpo.algorithm.likelihood.coupled import Coupled, coupled_weights
from unigrpo.algorithm.likelihood.masked_tokens import MaskedTokens
from unigrpo.algorithm.likelihood.random_masking import RandomMasking, mean_over_views
from unigrpo.algorithm.masking import apply_mask, bernoulli_mask
from unigrpo.records import MaskPlan, SequenceMasks
from unigrpo.rng import keyed_generator

NAMES = [
    name for name in plugins.available(PACKAGE) if type(load_estimator(name, {})).draw is not LikelihoodEstimator.draw
]
RATIOS = [0.0, 0.13, 0.5, 0.95, 1.0]


def takes_masking(name):
    return "masking" in inspect.signature(type(load_estimator(name, {}))).parameters


CASES = [
    pytest.param(name, options, ratio, id=f"{name}-{'-'.join(options.values()) or 'default'}-{ratio}")
    for name in NAMES
    for options in ({}, {"masking": "exact_count"})
    if not options or takes_masking(name)
    for ratio in RATIOS
]


def sequence_masks(rows, left_padding=0, right_padding=0):
    """Rows of (prompt, scored, tail) lengths, padded on both sides."""
    length = max(sum(row) for row in rows) + left_padding + right_padding
    token, response, scored = (torch.zeros(len(rows), length, dtype=torch.bool) for _ in range(3))
    for i, (num_prompt, num_scored, num_tail) in enumerate(rows):
        start = left_padding + num_prompt
        token[i, left_padding : start + num_scored + num_tail] = True
        response[i, start : start + num_scored + num_tail] = True
        scored[i, start : start + num_scored] = True
    return SequenceMasks(token_mask=token, response_mask=response, scored_mask=scored)


ROWS = [(3, 6, 2), (1, 1, 7), (5, 4, 0), (2, 1, 0), (4, 8, 1)]
EVERY_ROW = range(len(ROWS))


def draw(estimator, masks, ratio, rows: Sequence[int] = EVERY_ROW):
    generators = [keyed_generator(3, 1, row, "mask") for row in rows]
    return estimator.draw(masks, torch.full((len(generators),), ratio), generators)


def test_the_folder_has_the_estimators_of_the_readme():
    assert {"masked_tokens", "random_masking", "all_masked", "coupled"} <= set(NAMES)


@pytest.mark.parametrize(("name", "options", "ratio"), CASES)
def test_a_plan_is_well_formed(name, options, ratio):
    masks = sequence_masks(ROWS, left_padding=1, right_padding=2)
    plan = draw(load_estimator(name, options), masks, ratio)
    assert plan.is_masked.shape == plan.weight.shape
    assert plan.is_masked.shape[1:] == masks.token_mask.shape
    assert plan.weight.dtype == torch.float32
    assert plan.weight.isfinite().all()
    assert (plan.weight >= 0).all()
    assert not ((plan.weight > 0) & ~plan.is_masked).any(), "scored where it is not hidden"
    assert not (plan.is_masked & ~masks.token_mask).any(), "padding is hidden"
    assert not ((plan.weight > 0) & ~masks.scored_mask).any(), "a token of the prompt, tail or padding is scored"
    assert scored_tokens(plan).any(dim=1).all(), "a response without a scored token"


@pytest.mark.parametrize(("name", "options", "ratio"), CASES)
def test_the_tail_is_hidden_in_every_view_that_hides_the_response(name, options, ratio):
    masks = sequence_masks(ROWS)
    plan = draw(load_estimator(name, options), masks, ratio)
    tail = masks.response_mask & ~masks.scored_mask
    for view in plan.is_masked:
        hides_response = (view & masks.scored_mask).any(dim=1, keepdim=True)
        assert not (tail & hides_response & ~view).any()


@pytest.mark.parametrize(("name", "options", "ratio"), CASES)
def test_the_same_key_gives_the_same_plan_and_another_key_another(name, options, ratio):
    masks = sequence_masks([(3, 40, 2)] * 4)
    estimator = load_estimator(name, options)
    first, second = draw(estimator, masks, ratio, range(4)), draw(estimator, masks, ratio, range(4))
    assert torch.equal(first.is_masked, second.is_masked)
    assert torch.equal(first.weight, second.weight)
    if 0 < ratio < 1 and name != "all_masked":
        assert not torch.equal(first.is_masked, draw(estimator, masks, ratio, range(4, 8)).is_masked)


@pytest.mark.parametrize(("name", "options", "ratio"), CASES)
def test_a_row_of_the_plan_ignores_padding_and_the_other_rows(name, options, ratio):
    estimator = load_estimator(name, options)
    together = draw(estimator, sequence_masks(ROWS, left_padding=2, right_padding=3), ratio)
    order = [3, 0, 4, 2, 1]
    shuffled = draw(estimator, sequence_masks([ROWS[i] for i in order]), ratio, order)
    for i, row in enumerate(ROWS):
        alone = draw(estimator, sequence_masks([row]), ratio, [i])
        inside = slice(2, 2 + sum(row))
        assert torch.equal(together.is_masked[:, i, inside], alone.is_masked[:, 0])
        assert torch.equal(together.weight[:, i, inside], alone.weight[:, 0])
        assert torch.equal(shuffled.weight[:, order.index(i), : sum(row)], alone.weight[:, 0])


@pytest.mark.parametrize(("name", "options", "ratio"), CASES)
def test_views_combine_to_the_weighted_sum_of_a_loop(name, options, ratio):
    plan = draw(load_estimator(name, options), sequence_masks(ROWS), ratio)
    log_probs = torch.randn(plan.weight.shape, generator=keyed_generator("log_probs"))
    log_probs[plan.weight == 0] = torch.nan
    combined = combine_views(log_probs, plan)
    assert combined.shape == plan.weight.shape[1:]
    for row, position in itertools.product(range(combined.shape[0]), range(combined.shape[1])):
        expected = sum(
            float(plan.weight[v, row, position] * log_probs[v, row, position])
            for v in range(plan.weight.shape[0])
            if plan.weight[v, row, position] > 0
        )
        assert combined[row, position].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_response_with_nothing_to_score_gives_an_empty_finite_row(name):
    masks = sequence_masks([(3, 0, 4), (3, 2, 2)])
    plan = draw(load_estimator(name, {}), masks, 0.5, range(2))
    assert plan.weight.isfinite().all()
    assert not (plan.weight[:, 0] > 0).any()
    assert (plan.weight[:, 1] > 0).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_estimate_of_equal_log_probs_is_equal(name):
    plan = draw(load_estimator(name, {}), sequence_masks(ROWS), 0.5)
    log_probs = torch.randn(plan.weight.shape, generator=keyed_generator("same"))
    assert torch.equal(combine_views(log_probs, plan), combine_views(log_probs.clone(), plan))


def test_combining_passes_the_weight_as_gradient_even_beside_infinite_log_probs():
    plan = MaskPlan(is_masked=torch.tensor([[[True, True]]]), weight=torch.tensor([[[2.0, 0.0]]]))
    log_probs = torch.tensor([[[-1.0, -torch.inf]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(combine_views(log_probs, plan).sum(), log_probs)
    assert gradient.tolist() == [[[2.0, 0.0]]]


def test_an_unknown_estimator_or_option_is_named_with_the_right_ones():
    with pytest.raises(ValueError, match=r"no 'couple'; choose one of \[.*'coupled'.*'masked_tokens'"):
        load_estimator("couple", {})
    with pytest.raises(ValueError, match=r"'masked_tokens' has no \['num_views'\]; its options are \['masking'\]"):
        load_estimator("masked_tokens", {"num_views": 2})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("masked_tokens", {"masking": "exact"}),
        ("random_masking", {"num_views": 0}),
        ("random_masking", {"ratio_min": 0.6, "ratio_max": 0.4}),
        ("all_masked", {"prompt_mask_ratio": 1.5}),
        ("coupled", {"ratio_min": 0.0}),
        ("coupled", {"ratio_max": 1.0}),
    ],
)
def test_a_wrong_option_is_refused_with_its_value(name, options):
    with pytest.raises(ValueError, match=name):
        load_estimator(name, options)


def test_masked_tokens_hides_all_at_ratio_one_and_one_token_at_ratio_zero():
    masks = sequence_masks(ROWS)
    assert torch.equal(draw(MaskedTokens(), masks, 1.0).is_masked[0], masks.response_mask)
    assert (draw(MaskedTokens(), masks, 0.0).weight[0].sum(dim=1) == 1).all()


def test_masked_tokens_hides_the_rounded_share_with_exact_count():
    plan = draw(MaskedTokens("exact_count"), sequence_masks(ROWS), 0.5)
    assert plan.weight[0].sum(dim=1).tolist() == [3, 1, 2, 1, 4]


def test_random_masking_averages_a_token_over_the_views_that_hide_it():
    hidden = torch.tensor([[[True, True, False]], [[True, False, False]]])
    assert mean_over_views(hidden).tolist() == [[[0.5, 1.0, 0.0]], [[0.5, 0.0, 0.0]]]
    plan = draw(RandomMasking(num_views=4), sequence_masks([(2, 50, 0)] * 5), 0.3)
    totals = plan.weight.sum(dim=0)
    assert torch.equal(totals > 0, scored_tokens(plan))
    torch.testing.assert_close(totals[totals > 0], torch.ones(int((totals > 0).sum())))


def test_views_of_random_masking_are_spread_over_the_mask_ratios():
    masks = sequence_masks([(0, 100, 0)])
    shares = draw(RandomMasking(num_views=2, masking="exact_count"), masks, 0.25, [0]).is_masked.sum(dim=(1, 2))
    assert shares.tolist() == [30, 70]  # 0.1 + 0.8 * 0.25 and 0.1 + 0.8 * 0.75
    shares = draw(RandomMasking(num_views=2, masking="exact_count"), masks, 0.75, [0]).is_masked.sum(dim=(1, 2))
    assert shares.tolist() == [70, 30]  # the second wraps


def test_all_masked_hides_the_response_and_the_asked_share_of_the_prompt():
    masks = sequence_masks([(400, 4, 1)] * 25)
    plan = draw(AllMasked(prompt_mask_ratio=0.15), masks, 0.5, range(25))
    prompt = masks.token_mask & ~masks.response_mask
    assert (plan.is_masked[0] | ~masks.response_mask).all()
    share = plan.is_masked[0][prompt].float().mean().item()
    assert share == pytest.approx(0.15, abs=0.018)  # five standard errors of 10,000 draws
    assert torch.equal(plan.weight[0] > 0, masks.scored_mask)
    assert torch.equal(draw(AllMasked(0.0), masks, 0.5, range(25)).is_masked[0], masks.response_mask)


def test_coupled_scores_every_token_in_the_full_view_and_in_one_of_the_two_others():
    masks = sequence_masks(ROWS)
    full, mask, complement = draw(Coupled(), masks, 0.5).weight
    assert torch.equal(full, 0.5 * masks.scored_mask)
    assert torch.equal((mask > 0) ^ (complement > 0), masks.scored_mask)
    assert set(mask[mask > 0].tolist()) == {1.0}  # t = 0.5


def test_coupled_in_expectation_over_all_masks_of_four_tokens_is_half_the_sum_of_three_estimates():
    """Enumerates all 2^4 masks: the inverse weights undo the chance that a token is hidden, in mask and complement."""
    ratio, size = 0.3, 4
    generator = keyed_generator("table")
    table = torch.randn(2**size, size, generator=generator)  # log-probability of each token under each mask
    share = torch.tensor([ratio])
    total = torch.zeros(size)
    weight_total = torch.zeros(size)
    for code in range(2**size):
        hidden = torch.tensor([[code >> i & 1 for i in range(size)]], dtype=torch.bool)
        views = torch.stack([torch.ones_like(hidden), hidden, ~hidden])
        plan = MaskPlan(is_masked=views, weight=coupled_weights(views, share))
        chance = ratio ** int(hidden.sum()) * (1 - ratio) ** int((~hidden).sum())
        view_log_probs = torch.stack([table[-1], table[code], table[2**size - 1 - code]])[:, None]
        total += chance * combine_views(view_log_probs, plan)[0]
        weight_total += chance * plan.weight.sum(dim=0)[0]
    torch.testing.assert_close(weight_total, torch.full((size,), 1.5))

    expected = torch.zeros(size)
    for token in range(size):
        given_hidden = [0.0, 0.0]  # expectation with the token hidden, under ratio t and under 1 - t
        for code in range(2**size):
            others = [code >> i & 1 for i in range(size) if i != token]
            if not code >> token & 1:
                continue
            for which, t in enumerate((ratio, 1 - ratio)):
                chance = t ** sum(others) * (1 - t) ** (size - 1 - sum(others))
                given_hidden[which] += chance * table[code, token].item()
        expected[token] = 0.5 * (table[-1, token] + sum(given_hidden))
    torch.testing.assert_close(total, expected)


def test_coupled_forces_no_token_into_an_empty_mask():
    plan = draw(Coupled(), sequence_masks([(1, 1, 0)] * 400), 0.5, range(400))
    empty = (~plan.is_masked[1]).all(dim=1).float().mean().item()
    assert empty == pytest.approx(0.5, abs=0.125)  # five standard errors


def test_coupled_with_exact_count_divides_by_the_share_that_was_hidden():
    plan = draw(Coupled(masking="exact_count"), sequence_masks([(2, 5, 0)]), 0.5, [0])  # t = 0.5: 2 of 5
    assert plan.weight[1].sum().item() == pytest.approx(2 / (2 * 2 / 5))
    assert plan.weight[2].sum().item() == pytest.approx(3 / (2 * 3 / 5))


def golden_masks(arrays, params):
    """The rows of the original code: left-padded, response where labelled, tail behind the first end."""
    response = arrays["out.labels"] >= 0
    is_end = response & (arrays["out.labels"] == params["eos"])
    scored = response & (is_end.cumsum(dim=1) - is_end.long() == 0)
    return SequenceMasks(token_mask=response, response_mask=response, scored_mask=scored)


def every(masks, step):
    return SequenceMasks(**{f.name: getattr(masks, f.name)[::step] for f in dataclasses.fields(masks)})


def test_one_view_of_random_masking_is_the_row_of_the_original_code(golden):
    params, arrays = golden("rl_rows_random_masking")
    masks = golden_masks(arrays, params)
    ratio = params["lower_p"] + (params["upper_p"] - params["lower_p"]) * arrays["in.t_uniform"]
    hidden = bernoulli_mask(arrays["in.rand_rows"], ratio, masks.scored_mask)[None]
    plan = response_plan(hidden, mean_over_views(hidden), masks)
    assert torch.equal(scored_tokens(plan), arrays["out.loss_mask"])
    clean = torch.where(arrays["out.labels"] >= 0, arrays["out.labels"], arrays["out.noisy"])
    assert torch.equal(apply_mask(clean, plan.is_masked[0], params["mask_id"]), arrays["out.noisy"])


def test_mask_and_complement_of_coupled_are_the_rows_of_the_original_code(golden):
    params, arrays = golden("rl_rows_coupled")
    masks = every(golden_masks(arrays, params), 2)
    ratio = params["lower_p"] + (params["upper_p"] - params["lower_p"]) * arrays["in.t_uniform"]
    hidden = bernoulli_mask(arrays["in.rand_rows"], ratio, masks.scored_mask, at_least_one=False)
    views = torch.stack([masks.scored_mask, hidden, masks.scored_mask & ~hidden])
    plan = response_plan(views, coupled_weights(views, ratio), masks)
    labels = arrays["out.labels"][::2]
    clean = torch.where(labels >= 0, labels, arrays["out.noisy"][::2])
    for view in (1, 2):
        assert torch.equal(plan.weight[view] > 0, arrays["out.loss_mask"][view - 1 :: 2])
        xt = apply_mask(clean, plan.is_masked[view], params["mask_id"])
        assert torch.equal(xt, arrays["out.noisy"][view - 1 :: 2])
