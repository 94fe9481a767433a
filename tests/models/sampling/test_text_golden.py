"""Compares text sampling with the original code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unigrpo.models.sampling.remasking import commit_counts

END = 24
"""End-of-text of the toy vocabulary."""


def settings_of(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a golden case, which does not stop at end-of-text."""
    return {
        "max_new_tokens": params["gen_length"],
        "num_denoising_steps": params["steps"],
        "block_length": params["block_length"],
        "guidance_scale": params.get("cfg_scale", 0.0),
        "temperature": 0.0,
        "stop_at_end_of_text": False,
    }


@pytest.mark.parametrize(
    "case",
    [
        "len16_steps16_block16",
        "len16_steps8_block8",
        "len16_steps4_block4",
        "len16_steps4_block16",
        "len12_steps6_block4",
        "len12_steps9_block4",
        "len16_steps32_block8",
        "cfg0.5",
        "cfg2.0",
    ],
)
def test_greedy_ids_and_their_order_are_those_of_the_original(golden, golden_model, sample, case):
    params, arrays = golden(f"text_generate_{case}")
    model = golden_model(f"text_generate_{case}", "model_small")
    samples = sample(model, list(arrays["in.prompt"]), mask_id=params["mask_id"], **settings_of(params))
    assert torch.equal(torch.stack([s.token_ids for s in samples]), arrays["out.ids"])
    assert torch.equal(torch.stack([s.commit_step for s in samples]), arrays["out.commit_step"])


def test_left_padded_prompts_give_the_ids_of_the_original(golden, golden_model, sample):
    params, arrays = golden("text_generate_leftpad_full_mask")
    model = golden_model("text_generate_leftpad_full_mask", "model_small")
    padding = [int((row == 0).sum()) for row in arrays["in.attention_mask"]]
    assert padding == [3, 0]
    prompts = [prompt[p:] for prompt, p in zip(arrays["in.prompt"], padding, strict=True)]
    samples = sample(model, prompts, mask_id=params["mask_id"], **settings_of(params))
    for one, ids, steps, p in zip(samples, arrays["out.ids"], arrays["out.commit_step"], padding, strict=True):
        assert torch.equal(one.token_ids, ids[p:])
        assert torch.equal(one.commit_step, steps[p:])


def test_stopping_keeps_the_originals_text_up_to_the_first_end_of_text(golden, golden_model, sample):
    """The original stops if the last token of a block is end-of-text in all rows. Ours stops each row at any
    end-of-text."""
    params, arrays = golden("text_generate_early_stop")
    assert params["eot_token"] == END
    model = golden_model("text_generate_len16_steps16_block16", "model_small")
    settings, prompts = settings_of(params), list(arrays["in.prompt"])
    (to_the_end,) = sample(model, prompts, **settings)
    assert torch.equal(to_the_end.token_ids, arrays["alt.ids_without_stop"][0])

    (stopped,) = sample(model, prompts, **{**settings, "stop_at_end_of_text": True})
    original = arrays["out.ids"][0].tolist()
    assert original.index(END) == 6, "in the first block, which is 5 to 8"
    assert stopped.token_ids.tolist() == original[:9] + [END] * 12
    assert stopped.scored_mask.nonzero().flatten().tolist() == [5, 6]
    assert stopped.commit_step[5:9].min() >= 0
    assert (stopped.commit_step[9:] == -1).all(), "the second block should not have been sampled"


def test_tokens_are_divided_among_the_steps_as_in_the_original(golden):
    _, arrays = golden("num_transfer_tokens")
    for (masked, steps), counts in zip(arrays["in.masks_steps"].tolist(), arrays["out.counts"], strict=True):
        assert commit_counts(masked, steps) == counts[:steps].tolist()


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_guidance_is_the_formula_of_the_original(golden, sample, scale):
    _, arrays = golden("cfg_formulas")
    never = torch.full((2, 3, 1), -1e4)  # an eighth id for the mask
    logits = torch.cat([torch.cat([arrays[f"in.{name}"].float(), never], -1) for name in ("cond", "uncond")])
    prompt = torch.tensor([1, 2])

    def model(tokens, *, attention_mask, positions, num_positions):
        assert (tokens[:2, :2] == prompt).all()
        assert (tokens[2:, :2] == 7).all(), "the prompt is not masked in the unconditional row"
        assert torch.equal(positions, torch.tensor([False, False, True, True, True]).expand(4, 5))
        return SimpleNamespace(logits=logits.flatten(0, 1))

    settings = {"max_new_tokens": 3, "block_length": 3, "num_denoising_steps": 1, "temperature": 0.0}
    samples = sample(model, [prompt, prompt], mask_id=7, end_id=0, guidance_scale=scale, **settings)
    best = arrays[f"out.text_scale{scale}"].log_softmax(-1).max(-1)
    assert torch.equal(torch.stack([s.token_ids[2:] for s in samples]), best.indices)
    log_probs = torch.stack([s.commit_log_probs[2:] for s in samples])
    torch.testing.assert_close(log_probs, best.values.float(), rtol=1e-5, atol=1e-5)
