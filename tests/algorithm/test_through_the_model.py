"""Objectives through a small network with the original's weights: log-probabilities, losses, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AttentionInterface

from unigrpo.algorithm.denoising import denoising_loss, labelled_mean_weights, likelihood_bound_weights
from unigrpo.algorithm.likelihood.all_masked import AllMasked
from unigrpo.algorithm.likelihood.base import combine_views
from unigrpo.algorithm.masking import apply_mask, bernoulli_mask
from unigrpo.algorithm.reduction import Denominators
from unigrpo.algorithm.unigrpo_loss import unigrpo_loss
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.records import SequenceMasks
from unigrpo.rng import keyed_generator

GRADIENT_TOLERANCE: dict[str, Any] = {"rtol": 2e-3, "atol": 2e-5}
"""Stated by the golden cases: float32 through two layers."""


def additive_attention(module, query, key, value, attention_mask, scaling, **_):
    """How the released model was trained: the mask, 1 on real tokens, is added to the scores instead of hiding."""
    scores = query @ key.transpose(-1, -2) * scaling + attention_mask
    return (scores.softmax(dim=-1) @ value).transpose(1, 2), None


@pytest.fixture
def model(golden, golden_folder):
    params, _ = golden("losses_all_modalities")
    model = MMadaModelLM(MMadaConfig(**params["model_config"]))
    model.load_state_dict(load_file(golden_folder / "model_small.weights.safetensors"))
    model.config._attn_implementation = "eager"
    return model


def parameter_gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def log_probs_where(model, xt, targets, positions, **settings):
    """(B, L), 0 elsewhere."""
    out = model(xt, positions=positions, targets=targets[positions], **settings)
    return torch.zeros(xt.shape).masked_scatter(positions, out.log_probs)


def test_the_denoising_losses_have_the_gradients_of_the_original_code(model, golden):
    AttentionInterface.register("additive", additive_attention)
    model.config._attn_implementation = "additive"
    params, arrays = golden("losses_all_modalities")
    case, expected = golden("losses_gradient")
    xt, labels, t2i = arrays["in.input_ids"], arrays["in.labels"], slice(0, 2)
    real = torch.ones(xt.shape, dtype=torch.bool)
    real[t2i] = arrays["in.t2i_masks"].bool()
    attention_mask = real[:, None, None, :] & real[:, None, :, None]

    is_masked = xt == params["mask_id"]
    labelled = (labels[t2i] >= 0) & (torch.arange(params["L"]) > params["S"])
    weight = torch.zeros(xt.shape)
    weight[t2i] = case["coefficients"]["t2i"] * labelled_mean_weights(
        labelled, num_labelled_tokens=float(labelled.sum())
    )
    for task, rows, lengths in [
        ("lm", slice(2, 4), "in.answer_lengths_lm"),
        ("mmu", slice(4, 6), "in.answer_lengths"),
        ("r2i", slice(6, 8), "in.answer_lengths"),
    ]:
        weight[rows] = case["coefficients"][task] * likelihood_bound_weights(
            is_masked[rows], arrays["in.p_mask"][rows, 0], arrays[lengths][rows, 0], num_rows=2.0
        )
    log_probs = log_probs_where(model, xt, labels, weight > 0, attention_mask=attention_mask)
    loss = denoising_loss(log_probs, weight)
    loss.backward()

    torch.testing.assert_close(loss.detach(), expected["out.total"][0], rtol=1e-4, atol=0)
    gradients = parameter_gradients(model)
    norms = torch.stack([gradients[name].norm() for name in case["grad_norm_order"]])
    torch.testing.assert_close(norms, expected["out.grad_norms"], **GRADIENT_TOLERANCE)
    for name, gradient in gradients.items():
        if f"out.grad.{name}" in expected:
            torch.testing.assert_close(gradient, expected[f"out.grad.{name}"], **GRADIENT_TOLERANCE)


def test_random_masking_rl_has_the_gradients_of_the_original_code(model, golden):
    _, arrays = golden("rl_random_masking_end_to_end")
    xt, scored = arrays["in.noisy_ids"], arrays["in.mask"]
    log_probs = log_probs_where(model, xt, arrays["in.labels"], scored)
    torch.testing.assert_close(log_probs[scored], arrays["out.lp_new"][scored], rtol=0, atol=2e-4)

    # Its KL is to the old policy, and a sum over tokens beside a mean of surrogates: two calls.
    settings: dict[str, Any] = {
        "denominators": Denominators(num_responses=4.0, num_tokens=float(scored.sum()), response_length=1.0)
    }
    shared = (arrays["in.lp_old"], arrays["in.lp_old"])
    nothing, ratios = torch.zeros(4), torch.full((4,), 0.5)
    policy, _ = unigrpo_loss(log_probs, *shared, arrays["in.advantage"], scored, ratios, **settings)
    kl, _ = unigrpo_loss(
        log_probs, *shared, nothing, scored, ratios, kl_coef=0.01, aggregation="fixed_length", **settings
    )
    (policy + kl).backward()
    torch.testing.assert_close((policy + kl).detach(), arrays["out.loss"][0], rtol=1e-4, atol=0)
    gradients = parameter_gradients(model)
    first = gradients["model.transformer.blocks.0.q_proj.weight"]
    torch.testing.assert_close(first, arrays["out.grad_q_proj_block0"], **GRADIENT_TOLERANCE)
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    torch.testing.assert_close(norm, arrays["out.grad_global_norm"][0], **GRADIENT_TOLERANCE)


def test_all_masked_gives_the_log_probs_of_diffu_grpo(model, golden):
    params, arrays = golden("d1_masking_and_logps")
    x0, num_prompt = arrays["in.sequences"], params["prompt_length"]
    response = (torch.arange(x0.shape[1]) >= num_prompt).expand(x0.shape)
    everything = torch.ones_like(response)
    masks = SequenceMasks(token_mask=everything, response_mask=response, scored_mask=response)
    plan = AllMasked(0.0).draw(masks, torch.full((3,), 0.5), [keyed_generator(row) for row in range(3)])
    share = torch.full((3,), params["p_mask_prompt"])
    for iteration, draws in enumerate(arrays["in.rand_matrices"]):
        hidden_prompt = bernoulli_mask(draws, share, ~response, at_least_one=False)
        xt = apply_mask(x0, plan.is_masked[0] | hidden_prompt, params["mask_id"])
        if iteration == 0:
            assert torch.equal(xt, arrays["out.noisy_first"])
        log_probs = combine_views(log_probs_where(model, xt, x0, response)[None], plan)
        torch.testing.assert_close(
            log_probs[:, num_prompt:].detach(), arrays["out.logps"][iteration], rtol=0, atol=2e-4
        )
