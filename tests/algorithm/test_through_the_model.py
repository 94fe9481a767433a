"""Compares losses and gradients of a small model with those of the original code with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AttentionInterface

from unigrpo.algorithm.denoising import denoising_loss, labelled_mean_weights, likelihood_bound_weights
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM

GRADIENT_TOLERANCE: dict[str, Any] = {"rtol": 2e-3, "atol": 2e-5}
"""Tolerance of the golden cases for gradients in float32 through two layers."""


def additive_attention(module, query, key, value, attention_mask, scaling, **_):
    """Attention as in the training of the released model: the mask, 1 on real tokens, is added to the scores."""
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
    """Returns the log-probabilities at the positions as a tensor (B, L), which is 0 elsewhere."""
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
