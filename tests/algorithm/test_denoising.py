"""Compares masks and losses of pretraining with the numbers of the original code and with loops."""

from __future__ import annotations

import pytest
import torch

from unigrpo.algorithm.denoising import (
    denoising_loss,
    image_mask,
    image_mask_ratio,
    labelled_mean_weights,
    likelihood_bound_weights,
    text_mask,
    text_mask_probability,
)
from unigrpo.algorithm.masking import apply_mask
from unigrpo.rng import keyed_generator

IGNORE = -100


@pytest.mark.parametrize("size", [12, 15, 256])
def test_image_masks_have_the_counts_of_the_original_code(golden, size):
    _, arrays = golden(f"image_noising_n{size}")
    draws = torch.rand(22, size, generator=keyed_generator("image", size))
    for settings, name in [
        ({}, "num_masked"),
        ({"schedule": "linear"}, "num_masked_linear"),
        ({"schedule": "pow2"}, "num_masked_pow2"),
        ({"schedule": "sigmoid"}, "num_masked_sigmoid"),
        ({"min_ratio": 0.25}, "num_masked_min_rate_0.25"),
    ]:
        ratio = image_mask_ratio(arrays["in.u"], **settings)
        assert torch.equal(image_mask(ratio, draws).sum(dim=1), arrays[f"out.{name}"])
    torch.testing.assert_close(image_mask_ratio(arrays["in.u"]), arrays["out.mask_prob"], rtol=0, atol=1e-6)
    clipped = image_mask_ratio(arrays["in.u"], min_ratio=0.25)
    torch.testing.assert_close(clipped, arrays["out.mask_prob_min_rate_0.25"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [12, 15])
def test_image_masks_are_those_of_the_original_code(golden, size):
    params, arrays = golden(f"image_noising_n{size}")
    hidden = image_mask(image_mask_ratio(arrays["in.u"]), arrays["in.rand_matrix"])
    noised = apply_mask(arrays["in.image_tokens"], hidden, params["mask_id"])
    assert torch.equal(noised, arrays["out.input_ids"])
    assert torch.equal(hidden, arrays["out.labels"] != IGNORE)


def test_every_image_token_is_masked_equally_often():
    rows, size = 20_000, 5
    hidden = image_mask(torch.full((rows,), 0.4), torch.rand(rows, size, generator=keyed_generator("fair")))
    assert (hidden.sum(dim=1) == 2).all()
    share = hidden.double().mean(dim=0)
    torch.testing.assert_close(share, torch.full((size,), 0.4).double(), rtol=0, atol=0.018)  # five standard errors


@pytest.mark.parametrize("task", ["lm", "chat", "mmu"])
def test_text_masks_are_those_of_the_original_code(golden, task):
    params, arrays = golden(f"text_noising_{task}")
    clean, length = arrays["out.labels"], arrays["out.labels"].shape[1]
    if task == "mmu":
        # The labels leave out the image, which is never masked.
        clean = torch.where(clean == IGNORE, arrays["out.noisy"], clean)
    # The answer is at the end of the row, and only its tokens may be masked.
    eligible = torch.arange(length) >= length - arrays["out.answer_lengths"]
    probability = text_mask_probability(arrays["in.t"])
    torch.testing.assert_close(probability[:, None].expand(clean.shape), arrays["out.p_mask"], rtol=0, atol=1e-6)
    hidden = text_mask(probability, arrays["in.rand_matrix"], eligible)
    assert torch.equal(apply_mask(clean, hidden, params["mask_id"]), arrays["out.noisy"])


@pytest.fixture
def mixed(golden):
    """Returns log-probabilities and masks of a batch with two rows of each of the tasks t2i, lm, mmu and r2i."""
    params, arrays = golden("losses_all_modalities")
    labels = arrays["in.labels"]
    logits = arrays["out.logits_reference"]
    log_probs = logits.log_softmax(dim=2).gather(2, labels.clamp(min=0)[:, :, None]).squeeze(2)
    is_masked = arrays["in.input_ids"] == params["mask_id"]
    labelled = (labels != IGNORE) & (torch.arange(params["L"]) > params["S"])
    return params, arrays, log_probs, is_masked, labelled


def bound(arrays, is_masked, rows, lengths="in.answer_lengths", num_rows=2.0):
    return likelihood_bound_weights(
        is_masked[rows], arrays["in.p_mask"][rows, 0], arrays[lengths][rows, 0], num_rows=num_rows
    )


def test_the_image_loss_is_that_of_the_original_code(mixed):
    _, arrays, log_probs, is_masked, labelled = mixed
    rows = slice(0, 2)
    weight = labelled_mean_weights(labelled[rows], num_labelled_tokens=float(labelled[rows].sum()))
    torch.testing.assert_close(denoising_loss(log_probs[rows], weight), arrays["out.loss_t2i"][0], rtol=2e-5, atol=0)
    image_only = (labelled & is_masked)[rows]
    weight = labelled_mean_weights(image_only, num_labelled_tokens=float(image_only.sum()))
    expected = arrays["alt.loss_t2i_image_tokens_only"][0]
    torch.testing.assert_close(denoising_loss(log_probs[rows], weight), expected, rtol=2e-5, atol=0)


def test_the_text_loss_over_whole_rows_is_that_of_the_original_code(mixed):
    params, arrays, log_probs, is_masked, _ = mixed
    rows = slice(2, 4)
    weight = likelihood_bound_weights(
        is_masked[rows], arrays["in.p_mask"][rows, 0], torch.full((2,), params["L"]), num_rows=2.0
    )
    torch.testing.assert_close(denoising_loss(log_probs[rows], weight), arrays["out.loss_lm"][0], rtol=2e-5, atol=0)


@pytest.mark.parametrize(
    ("rows", "lengths", "expected"),
    [
        (slice(2, 4), "in.answer_lengths_lm", "out.loss_lm_with_answer_lengths"),
        (slice(4, 6), "in.answer_lengths", "out.loss_mmu"),
        (slice(6, 8), "in.answer_lengths", "out.loss_r2i"),
    ],
)
def test_the_losses_over_answers_are_those_of_the_original_code(mixed, rows, lengths, expected):
    _, arrays, log_probs, is_masked, _ = mixed
    loss = denoising_loss(log_probs[rows], bound(arrays, is_masked, rows, lengths))
    torch.testing.assert_close(loss, arrays[expected][0], rtol=2e-5, atol=0)


def test_the_bound_is_that_of_a_loop(mixed):
    _, arrays, log_probs, is_masked, _ = mixed
    total = 0.0
    for row in range(4, 8):
        per_row = 0.0
        for position in range(24):
            if is_masked[row, position]:
                per_row -= (log_probs[row, position] / arrays["in.p_mask"][row, 0]).item()
        total += per_row / arrays["in.answer_lengths"][row, 0].item() / 4
    loss = denoising_loss(log_probs[4:], bound(arrays, is_masked, slice(4, 8), num_rows=4.0))
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_one_row_at_a_time_adds_up_to_the_whole_task(mixed):
    _, arrays, log_probs, is_masked, labelled = mixed
    whole = denoising_loss(log_probs[6:], bound(arrays, is_masked, slice(6, 8)))
    parts = [denoising_loss(log_probs[i : i + 1], bound(arrays, is_masked, slice(i, i + 1))) for i in (6, 7)]
    torch.testing.assert_close(sum(parts), whole)
    count = float(labelled[:2].sum())
    whole = denoising_loss(log_probs[:2], labelled_mean_weights(labelled[:2], num_labelled_tokens=count))
    parts = [
        denoising_loss(log_probs[i : i + 1], labelled_mean_weights(labelled[i : i + 1], num_labelled_tokens=count))
        for i in (0, 1)
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_an_absent_task_and_rows_without_masked_tokens_give_zero_with_a_gradient(mixed):
    _, arrays, log_probs, is_masked, labelled = mixed
    log_probs = log_probs.clone().requires_grad_()
    empty = slice(0, 0)
    unlabelled = torch.zeros_like(labelled[:2])
    losses = [
        denoising_loss(log_probs[:2], labelled_mean_weights(unlabelled, num_labelled_tokens=0.0)),
        denoising_loss(log_probs[empty], labelled_mean_weights(labelled[empty], num_labelled_tokens=0.0)),
        denoising_loss(log_probs[empty], bound(arrays, is_masked, empty, num_rows=0.0)),
        denoising_loss(log_probs[4:], bound(arrays, torch.zeros_like(is_masked), slice(4, 8), num_rows=4.0)),
    ]
    torch.stack(losses).sum().backward()
    assert [loss.item() for loss in losses] == [0.0] * 4
    assert (log_probs.grad == 0).all()


def test_a_row_without_an_answer_has_the_loss_zero():
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    weight = likelihood_bound_weights(nothing, torch.tensor([0.5]), torch.tensor([0]), num_rows=1.0)
    assert denoising_loss(torch.full((1, 5), -torch.inf), weight) == 0


def test_the_bound_is_unbiased_over_all_masks_of_four_tokens():
    """If the log-probabilities do not depend on the mask, the expected loss is their negative mean for any mask
    ratio."""
    log_probs = torch.randn(1, 4, generator=keyed_generator("unbiased"))
    probability = torch.tensor([0.3])
    total = 0.0
    for code in range(16):
        hidden = torch.tensor([[code >> i & 1 for i in range(4)]], dtype=torch.bool)
        chance = 0.3 ** int(hidden.sum()) * 0.7 ** int((~hidden).sum())
        weight = likelihood_bound_weights(hidden, probability, torch.tensor([4]), num_rows=1.0)
        total += chance * denoising_loss(log_probs, weight).item()
    assert total == pytest.approx(-log_probs.mean().item(), rel=1e-5)
