"""Tests that the views of every likelihood estimator must pass, and tests of single estimators."""

from __future__ import annotations

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unigrpo import plugins
from unigrpo.algorithm.likelihood.all_masked import AllMasked
from unigrpo.algorithm.likelihood.base import PACKAGE, Row, load_estimator
from unigrpo.algorithm.likelihood.block_masks import BlockMasks
from unigrpo.algorithm.likelihood.elbo_pair import ElboPair
from unigrpo.algorithm.likelihood.elbo_quadrature import ElboQuadrature, gauss_legendre
from unigrpo.algorithm.likelihood.left_to_right import LeftToRight
from unigrpo.algorithm.likelihood.masked_tokens import MaskedTokens
from unigrpo.algorithm.likelihood.random_masking import RandomMasking
from unigrpo.algorithm.likelihood.trace import Trace
from unigrpo.algorithm.masking import ar_like_probability, bernoulli_mask, exact_count_mask
from unigrpo.rng import keyed_generator

NAMES = plugins.available(PACKAGE)
VARIANTS = {
    "masked_tokens": [{"masking": "exact_count"}, {"masking": "ar_like"}],
    "random_masking": [{"num_views": 3, "masking": "exact_count"}],
    "coupled": [{"masking": "exact_count"}],
    "trace": [{"steps_per_view": 3}, {"num_views": 2}, {"num_views": 2, "choose": "uncertain"}],
    "left_to_right": [{"top_entropy": 0.25}],
    "elbo_pair": [{"num_pairs": 3}],
    "elbo_quadrature": [{"num_nodes": 5}],
    "block_masks": [{"block_length": 3}, {"num_views": 5, "block_length": 2, "context_mask_ratio": 0.0}],
}
"""Options that are tested in addition to the defaults."""
ESTIMATORS = [
    pytest.param(name, options, id=f"{name}-{'-'.join(map(str, options.values())) or 'default'}")
    for name in NAMES
    for options in ({}, *VARIANTS.get(name, []))
]
RATIOS = [0.0, 0.5, 1.0]


def make_row(*parts: tuple[int, int], prompt: int = 3, image: bool = False, behind: int = 1) -> Row:
    """Returns a row of a prompt, spans of (scored, padding) tokens with a token between them, and tokens after them.

    The tokens of a span are fixed in a random order, two in each step. Half of the padding is never fixed.
    """
    generator = keyed_generator("row", prompt, *itertools.chain(*parts))
    response, scored, is_image, span, step = [], [], [], [], []

    def add(count, is_response=False, is_scored=False, of_image=False, of_span=0, steps=None):
        response.extend([is_response] * count)
        scored.extend([is_scored] * count)
        is_image.extend([of_image] * count)
        span.extend([of_span] * count)
        step.extend([-1] * count if steps is None else steps)

    add(prompt)
    first = 0
    for number, (num_scored, num_tail) in enumerate(parts, start=1):
        if number > 1:
            add(1)
        order = (torch.randperm(num_scored, generator=generator) // 2 + first).tolist()
        of_image = image or number > 1
        add(num_scored, True, True, of_image, number, order)
        last = max(order, default=first)
        add(num_tail, True, False, of_image, number, [last + 1 if i % 2 else -1 for i in range(num_tail)])
        first = last + 2
    add(behind)
    fixed = torch.tensor(step) >= 0
    draws = torch.rand(2, len(step), generator=generator)
    return Row(
        token_ids=torch.arange(len(step)),
        response_mask=torch.tensor(response),
        scored_mask=torch.tensor(scored),
        image_mask=torch.tensor(is_image),
        span=torch.tensor(span),
        commit_step=torch.tensor(step),
        commit_log_probs=-3 * draws[0] * fixed,
        commit_entropy=2 * draws[1] * fixed,
    )


ROWS = {
    "text": make_row((6, 2)),
    "short": make_row((1, 7), prompt=1),
    "full": make_row((8, 0)),
    "image": make_row((9, 0), image=True),
    "thoughts and image": make_row((5, 3), (9, 0)),
}


def views_of(estimator, row, ratio=0.5, key=0, bounds=(0.0, 1.0)):
    return estimator.views(row, ratio, keyed_generator(3, 1, key, "mask"), bounds)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize(("name", "options"), ESTIMATORS)
def test_views_are_well_formed(name, options, row, ratio):
    estimator = load_estimator(name, options)
    views = views_of(estimator, row, ratio)
    length = len(row.token_ids)
    assert views.is_masked.shape == views.weight.shape == views.rate.shape == (views.num_views, length)
    assert views.weight.dtype == views.rate.dtype == torch.float32
    assert views.weight.isfinite().all()
    assert ((views.rate > 0) & (views.rate <= 1)).all()
    is_read = views.weight != 0
    assert not (is_read & ~views.is_masked).any(), "a view scores a visible token"
    assert not (is_read & ~row.scored_mask).any(), "a token outside of the scored tokens is scored"
    if not estimator.bound:  # a bound may mask no token of a response by chance; masking one anyway would bias it
        assert all((is_read & (row.span == span)).any() for span in range(1, row.num_spans + 1))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize(("name", "options"), ESTIMATORS)
def test_a_view_masks_spans_as_the_sampler_does(name, options, row):
    """A view scores one span, shows all spans before it with their padding, and masks all spans after it."""
    views = views_of(load_estimator(name, options), row)
    tail = row.response_mask & ~row.scored_mask
    for is_masked, weight in zip(views.is_masked, views.weight, strict=True):
        spans = row.span[weight != 0].unique().tolist()
        assert len(spans) <= 1
        for span in spans:
            prompt = (row.span == 0) if name in ("all_masked", "block_masks") else torch.zeros_like(tail)
            earlier = (row.span < span) & ~prompt
            # These two also mask tokens of the prompt and of earlier spans.
            if name not in ("all_masked", "block_masks"):
                assert not (is_masked & earlier).any()
            assert is_masked[(row.span > span)].all()
            if name != "trace":  # trace shows the padding that was generated before, as the sampler saw it
                assert is_masked[tail & (row.span == span)].all()


@pytest.mark.parametrize(("name", "options"), ESTIMATORS)
def test_padding_that_was_never_generated_is_masked_while_its_span_is_scored(name, options):
    row = ROWS["thoughts and image"]
    views = views_of(load_estimator(name, options), row)
    never = row.response_mask & (row.commit_step < 0)
    assert never.any()
    for is_masked, weight in zip(views.is_masked, views.weight, strict=True):
        if (weight != 0).any():
            span = int(row.span[weight != 0][0])
            assert is_masked[never & (row.span == span)].all()


@pytest.mark.parametrize(("name", "options"), ESTIMATORS)
def test_the_same_key_gives_the_same_views(name, options):
    estimator, row = load_estimator(name, options), make_row((20, 2), (30, 0))
    first, second = views_of(estimator, row), views_of(estimator, row)
    for field in dataclasses.fields(first):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("trace", "left_to_right")])
def test_another_key_gives_other_views(name):
    estimator, row = load_estimator(name, {}), make_row((40, 0), prompt=40)
    assert not torch.equal(views_of(estimator, row).is_masked, views_of(estimator, row, key=1).is_masked)


def test_another_process_draws_the_same_views():
    """Every worker of a run draws the views of its samples itself."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_views as t\n"
        "for p in t.ESTIMATORS:\n"
        "    name, options = p.values\n"
        "    v = t.views_of(t.load_estimator(name, options), t.ROWS['thoughts and image'])\n"
        "    print(p.id, v.is_masked.int().tolist(), v.weight.tolist(), v.rate.tolist())"
    )
    folder = str(Path(__file__).parent)
    elsewhere = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True).stdout
    expected = []
    for parameter in ESTIMATORS:
        name, options = parameter.values
        views = views_of(load_estimator(name, options), ROWS["thoughts and image"])  # type: ignore[arg-type]
        expected.append(
            f"{parameter.id} {views.is_masked.int().tolist()} {views.weight.tolist()} {views.rate.tolist()}"
        )
    assert elsewhere.splitlines() == expected


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("all_masked", "block_masks")])
def test_a_longer_prompt_changes_nothing(name):
    """The two other estimators draw random numbers for the prompt."""
    short, long = make_row((7, 2)), make_row((7, 2))
    padded = {
        f.name: torch.nn.functional.pad(getattr(long, f.name), (5, 2), value=-1 if f.name == "commit_step" else 0)
        for f in dataclasses.fields(long)
    }
    first, second = views_of(load_estimator(name, {}), short), views_of(load_estimator(name, {}), Row(**padded))
    assert torch.equal(second.is_masked[:, 5:-2], first.is_masked)
    assert torch.equal(second.weight[:, 5:-2], first.weight)


@pytest.mark.parametrize("name", NAMES)
def test_a_response_with_nothing_to_score_has_no_weight(name):
    row = make_row((0, 4))
    views = views_of(load_estimator(name, {}), row)
    assert (views.weight == 0).all()
    assert ((views.rate > 0) & (views.rate <= 1)).all()
    assert views_of(load_estimator(name, {}), make_row()).num_views == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_global_generator_is_untouched(name):
    before = torch.get_rng_state()
    views_of(load_estimator(name, {}), ROWS["text"])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "masking"),
    [("all_masked", "bernoulli")]
    + [(n, m) for n in ("masked_tokens", "random_masking", "coupled") for m in ("bernoulli", "exact_count")],
)
@pytest.mark.parametrize("ratio", [0.0, 0.13, 0.5, 0.95, 1.0])
def test_views_are_the_mask_plans_that_were_drawn_for_whole_batches(name, masking, ratio, golden_folder):
    """An earlier version of the code, which drew the masks of all rows of a batch together, wrote the fixture."""
    plans = load_file(golden_folder.parent / "mask_plans.safetensors")
    options = {} if name == "all_masked" else {"masking": masking}
    for number, (prompt, scored, tail) in enumerate([(3, 6, 2), (1, 1, 7), (5, 4, 0), (2, 1, 0), (4, 8, 1)]):
        row = make_row((scored, tail), prompt=prompt, behind=0)
        views = views_of(load_estimator(name, options), row, torch.tensor(ratio).item(), key=number)
        length = prompt + scored + tail
        for what in ("is_masked", "weight"):
            expected = plans[f"{name}.{masking}.{ratio}.{what}"][:, number, :length]
            assert torch.equal(getattr(views, what), expected)


def subsets(size):
    return [torch.tensor([code >> i & 1 for i in range(size)], dtype=torch.bool) for code in range(2**size)]


def enumerated_elbo(table, size):
    """Returns the mean over all orders of generation of the sum of the log-probabilities.

    The table has the log-probability of each token by set of masked tokens.
    """
    total = 0.0
    for order in itertools.permutations(range(size)):
        masked = set(range(size))
        for token in order:
            total += table[sum(1 << i for i in masked), token].item() / math.factorial(size)
            masked.remove(token)
    return total


BOUNDS = [parameter for parameter in ESTIMATORS if load_estimator(*parameter.values).bound == "elbo"]  # type: ignore[arg-type]


def test_there_are_bounds_to_check():
    assert {parameter.values[0] for parameter in BOUNDS} >= {"elbo_pair", "elbo_quadrature"}


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(("name", "options"), BOUNDS)
def test_a_bound_is_unbiased(name, options, size):
    """The mean over random views is the enumerated evidence lower bound, within five standard errors."""
    table = -3 * torch.rand(2**size, size, generator=keyed_generator("table", size), dtype=torch.float64)
    estimator, row = load_estimator(name, options), make_row((size, 1), prompt=1)
    generator = keyed_generator("bound", name, size)
    scored = row.scored_mask.nonzero().flatten()
    estimates = []
    for _ in range(300):
        views = estimator.views(row, 0.5, generator)
        codes = (views.is_masked[:, scored].long() * 2 ** torch.arange(size)).sum(dim=1)
        estimates.append((views.weight[:, scored] * table[codes]).sum())
    values = torch.stack(estimates)
    error = values.std().item() / math.sqrt(len(values))
    assert values.mean().item() == pytest.approx(enumerated_elbo(table, size), abs=5 * error + 1e-6)


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("masking", ["bernoulli", "exact_count", "ar_like"])
def test_the_rate_is_the_frequency_with_which_a_token_is_masked(masking, ratio):
    count, rows = 4, 20_000
    eligible = torch.tensor([[False, *[True] * count, False]]).expand(rows, -1)
    ratios = torch.full((rows,), ratio)
    draws = torch.rand(eligible.shape, generator=keyed_generator("rate", masking))
    if masking == "ar_like":
        is_masked = bernoulli_mask(draws, ar_like_probability(eligible, ratios), eligible, at_least_one=False)
    else:
        is_masked = (exact_count_mask if masking == "exact_count" else bernoulli_mask)(draws, ratios, eligible)
    seen = is_masked.double().mean(dim=0)[1:-1]
    row = make_row((count, 1), prompt=1)
    rate = torch.full((count,), torch.nan)
    for key in range(40):  # a view has the rates of the tokens that it masks
        view = views_of(MaskedTokens(masking), row, ratio, key)
        told = view.weight[0, row.scored_mask] != 0
        rate = torch.where(told, view.rate[0, row.scored_mask], rate)
    error = (seen * (1 - seen) / rows).sqrt()
    never = rate.isnan()
    assert ((rate - seen).abs() <= 5 * error + 1e-6)[~never].all()
    assert (seen[never] < 0.1).all()


def test_ar_like_masks_late_tokens_more_often_and_the_last_one_always():
    eligible = torch.tensor([[False, *[True] * 11, False]])
    probability = ar_like_probability(eligible, torch.tensor([0.6]))[0]
    # The probability to be visible falls from 0.8 to 0, and its mean is 0.4.
    torch.testing.assert_close(probability[1:12], torch.linspace(0.2, 1.0, 11))
    assert probability[[0, 12]].tolist() == [0.0, 0.0]
    assert ar_like_probability(eligible, torch.tensor([0.2])).min() == 0  # the probability to be visible is at most 1
    views = views_of(MaskedTokens("ar_like"), make_row((1, 3), prompt=2), 0.0)
    assert views.weight.nonzero().tolist() == [[0, 2]]


def test_random_masking_keeps_the_bounds_in_every_view():
    """Mask ratios wrap within the bounds. Before, the second view of a run with ratios from 0.6 could have the ratio
    0.1."""
    row = make_row((100, 0))
    estimator = RandomMasking(num_views=4, ratio_min=0.1, ratio_max=1.0, masking="exact_count")
    for ratio in (0.62, 0.77, 0.85, 1.0):
        shares = views_of(estimator, row, ratio, bounds=(0.6, 1.0)).is_masked[:, row.scored_mask].double().mean(dim=1)
        expected = [0.6 + (ratio - 0.6 + 0.1 * view) % 0.4 for view in range(4)]
        if ratio == 1.0:
            expected[0] = 1.0  # the highest ratio itself does not wrap
        assert shares.tolist() == pytest.approx(expected, abs=0.011)


def test_bounds_that_exclude_those_of_the_estimator_are_refused():
    with pytest.raises(ValueError, match=r"random_masking takes mask ratios from 0.1 to 0.9.*from 0.95 to 1.0"):
        views_of(RandomMasking(), ROWS["text"], 0.95, bounds=(0.95, 1.0))


def test_all_masked_masks_the_thoughts_before_an_image_like_a_prompt():
    row = ROWS["thoughts and image"]
    views = views_of(AllMasked(prompt_mask_ratio=1.0), row)
    assert views.is_masked.all()
    assert torch.equal(views.weight != 0, torch.stack([row.scored_mask & (row.span == s) for s in (1, 2)]))


def test_trace_replays_the_sampler_step_by_step():
    row = make_row((5, 2))
    views = views_of(Trace(), row)
    steps = sorted(set(row.commit_step[row.scored_mask].tolist()))
    assert views.num_views == len(steps)
    for step, is_masked, weight in zip(steps, views.is_masked, views.weight, strict=True):
        assert torch.equal(weight != 0, row.scored_mask & (row.commit_step == step))
        assert torch.equal(is_masked, row.response_mask & ((row.commit_step >= step) | (row.commit_step < 0)))
    assert torch.equal(views.weight.sum(dim=0), row.scored_mask.float())


def test_trace_merges_steps_and_leaves_out_views_that_score_nothing():
    row = make_row((8, 3))
    merged = views_of(Trace(steps_per_view=2), row)
    assert merged.num_views == 2  # steps 0 to 3 fixed scored tokens, and step 4 fixed padding alone
    assert torch.equal(merged.weight.sum(dim=0), row.scored_mask.float())


def test_trace_samples_uncertain_steps_more_often():
    row = make_row((8, 0))
    row = dataclasses.replace(row, commit_log_probs=torch.where(row.commit_step == 2, -3.0, -0.1) * row.scored_mask)
    estimator = Trace(num_views=1, choose="uncertain")
    chosen = [views_of(estimator, row, key=k).weight[0].nonzero()[0].item() for k in range(150)]
    share = sum(int(row.commit_step[int(i)]) == 2 for i in chosen) / len(chosen)
    # The weights are exp(3) and three times exp(0.1). The tolerance is five standard errors.
    assert share == pytest.approx(math.exp(3) / (math.exp(3) + 3 * math.exp(0.1)), abs=0.15)
    uniform = [views_of(Trace(num_views=1), row, key=k).weight[0].nonzero()[0].item() for k in range(150)]
    assert sum(int(row.commit_step[int(i)]) == 2 for i in uniform) / 150 == pytest.approx(0.25, abs=0.18)


def test_trace_refuses_a_row_without_steps():
    row = ROWS["text"]
    with pytest.raises(ValueError, match="no commit step"):
        views_of(Trace(), dataclasses.replace(row, commit_step=torch.full_like(row.commit_step, -1)))


def test_left_to_right_is_the_chain_rule():
    row = make_row((4, 2), prompt=2)
    views = views_of(LeftToRight(), row)
    assert views.num_views == 4
    for i, (is_masked, weight) in enumerate(zip(views.is_masked, views.weight, strict=True)):
        assert weight.nonzero().flatten().tolist() == [2 + i]
        assert is_masked.nonzero().flatten().tolist() == list(range(2 + i, 8))


def test_the_fast_form_scores_the_tokens_with_the_highest_entropy():
    row = make_row((8, 0), prompt=1)
    entropy = torch.tensor([9.0, 0.1, 2.0, 0.3, 0.2, 3.0, 0.0, 0.5, 0.4, 9.0])
    row = dataclasses.replace(row, commit_entropy=entropy)
    views = views_of(LeftToRight(top_entropy=0.25), row)
    assert views.weight.nonzero()[:, 1].tolist() == [2, 5]
    with pytest.raises(ValueError, match="the sampler recorded none"):
        views_of(LeftToRight(top_entropy=0.25), dataclasses.replace(row, commit_entropy=None))


def test_a_pair_is_a_mask_and_its_complement_with_the_weights_of_espo():
    row = make_row((5, 2), prompt=2)
    seen = set()
    for key in range(60):
        views = views_of(ElboPair(), row, key=key)
        first, second = views.weight != 0
        assert torch.equal(first ^ second, row.scored_mask)
        k = int(first.sum())
        seen.add(k)
        for weight, own in ((views.weight[0], k), (views.weight[1], 5 - k)):
            torch.testing.assert_close(weight[weight != 0], torch.full((own,), 1 / (2 * own / 6) if own else 0.0))
    assert seen == set(range(6))


def test_the_nodes_of_the_quadrature_integrate_polynomials():
    for number in (1, 2, 3, 5, 8):
        nodes, weights = gauss_legendre(number)
        for degree in range(2 * number):
            assert (weights.double() * nodes.double() ** degree).sum().item() == pytest.approx(
                1 / (degree + 1), abs=1e-6
            )
    nodes, weights = gauss_legendre(3)
    torch.testing.assert_close(nodes, torch.tensor([0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15)]))
    torch.testing.assert_close(weights, torch.tensor([5 / 18, 8 / 18, 5 / 18]))
    row = make_row((6, 0))
    views = views_of(ElboQuadrature(), row)
    for view in range(3):
        expected = torch.where(views.is_masked[view], weights[view] / nodes[view], 0.0)
        torch.testing.assert_close(views.weight[view], expected * row.scored_mask)


def test_a_block_mask_shows_tokens_before_its_block_and_masks_those_after_it():
    row = make_row((10, 2), prompt=2, behind=0)
    views = views_of(BlockMasks(num_views=3, block_length=4, context_mask_ratio=0.0), row)
    found = set()
    for is_masked, weight, rate in zip(views.is_masked, views.weight, views.rate, strict=True):
        response = is_masked[2:12]
        block = int(response.int().argmax()) // 4
        found.add(block)
        assert not response[: block * 4].any()
        assert response[(block + 1) * 4 :].all()
        assert is_masked[12:].all()
        assert torch.equal(weight != 0, is_masked & row.scored_mask)
        share = response.double().mean().item()
        assert rate[weight != 0].tolist() == pytest.approx([share] * int(response.sum()))
        assert weight.sum().item() / 10 == pytest.approx(1 / 3)  # a mean over the masked tokens, and over three views
    assert found == {0, 1, 2}


def test_a_block_mask_also_scores_the_tokens_that_it_masks_before_its_block():
    row = make_row((8, 0), prompt=4)
    views = views_of(BlockMasks(num_views=1, block_length=2, context_mask_ratio=1.0), row)
    assert views.is_masked[0, :4].all()
    assert torch.equal(views.weight[0] != 0, views.is_masked[0] & row.scored_mask)


def test_an_image_is_one_block():
    views = [views_of(BlockMasks(num_views=1, block_length=2), ROWS["image"], key=k) for k in range(40)]
    sizes = {int((v.weight[0] != 0).sum()) for v in views}
    assert len(sizes) > 5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("masked_tokens", {"masking": "ar"}),
        ("trace", {"steps_per_view": 0}),
        ("trace", {"num_views": -1}),
        ("trace", {"choose": "best"}),
        ("trace", {"temperature": 0.0}),
        ("left_to_right", {"top_entropy": 0.0}),
        ("elbo_pair", {"num_pairs": 0}),
        ("elbo_quadrature", {"num_nodes": 0}),
        ("block_masks", {"num_views": 0}),
        ("block_masks", {"block_length": 0}),
        ("block_masks", {"context_mask_ratio": 2.0}),
    ],
)
def test_a_wrong_option_is_refused_with_its_value(name, options):
    with pytest.raises(ValueError, match=f"{name}.*{next(iter(options.values()))}"):
        load_estimator(name, options)
