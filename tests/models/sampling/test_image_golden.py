"""Image sampling against runs of the original code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unigrpo.config import ImageSamplingConfig
from unigrpo.models.sampling.image import (
    UNKNOWN,
    gumbel,
    least_sure,
    mask_counts,
    remasking_temperature,
    sample_images,
)
from unigrpo.models.vocabulary import Vocabulary

DETERMINISTIC = ["noguidance", "guidance", "guidance_wrong_cut_trap", "one_step", "known_tokens", "linear_schedule"]


def settings_of(params: dict[str, Any], **changes: Any) -> ImageSamplingConfig:
    values = {
        "num_image_tokens": params["seq_len"],
        "num_denoising_steps": params["timesteps"],
        "schedule": params["schedule"],
        "guidance_scale": params["guidance_scale"],
        "remasking_temperature": params["temperature"],
        "temperature": 0.0,
    }
    return ImageSamplingConfig(**(values | changes))


def vocabulary_of(params: dict[str, Any], eoi_id: int) -> Vocabulary:
    unread = {"begin_of_text_id": 0, "end_of_text_id": 1, "image_pad_id": 0, "soi_id": 0, "t2i_id": 0, "mmu_id": 0}
    return Vocabulary(
        mask_id=params["mask_id"],
        eoi_id=eoi_id,
        r2i_id=0,
        end_header_id=None,
        image_offset=params["text_vocab"],
        codebook_size=params["codebook"],
        **unread,
    )


@pytest.mark.parametrize("case", DETERMINISTIC)
def test_codes_and_every_input_of_the_network_are_those_of_the_original(golden, golden_model, case):
    params, arrays = golden(f"image_generate_{case}")
    model = golden_model(f"image_generate_{case}", "model_small")
    size = params["seq_len"]
    # The released code cuts the unconditional prompt at the resolution; we have no cut, so we match the right one.
    codes = arrays.get("alt.image_codes_with_cut_at_S", arrays["out.image_codes"])
    inputs = arrays.get("alt.network_input_per_step_cut_at_S", arrays["out.network_input_per_step"])
    for row in range(
        len(codes)
    ):  # one by one, since start- and end-of-image are another token in each row of these cases
        ids, real = arrays["in.input_ids"][row], arrays["in.attention_mask"][row].bool()
        unconditional = None
        if "in.uncond_ids" in arrays:
            text = slice(None, params["S"] + 1)  # and from start-of-image on all is the conditional row's
            uncond_real = arrays["in.uncond_attention_mask"][row, text].bool()
            unconditional = [torch.cat([arrays["in.uncond_ids"][row, text][uncond_real], ids[-size - 2 : -size - 1]])]
        given = ids[-size - 1 : -1]
        seen: list[torch.Tensor] = []

        def spy(tokens, *, attention_mask, seen=seen, **kwargs):
            shown = torch.ones_like(tokens).bool() if attention_mask is None else attention_mask
            seen.extend(row[real] for row, real in zip(tokens, shown, strict=True))
            return model(tokens, attention_mask=attention_mask, **kwargs)

        (sample,) = sample_images(
            spy,
            [ids[real][: -size - 1]],
            settings_of(params),
            vocabulary_of(params, int(ids[-1])),
            unconditional=unconditional,
            known=[torch.where(given == params["mask_id"], UNKNOWN, given - params["text_vocab"])],
            generators=[torch.Generator()],
        )
        assert torch.equal(sample.token_ids[-size - 1 : -1] - params["text_vocab"], codes[row])
        for found, expected in zip(seen, inputs[:, row :: len(codes)].flatten(0, 1), strict=True):
            assert torch.equal(found, expected[-len(found) :])
        if case == "guidance_wrong_cut_trap":
            continue
        steps, log_probs = sample.commit_step[-size - 1 : -1], sample.commit_log_probs[-size - 1 : -1]
        for step in range(params["timesteps"]):
            now, expected = steps == step, arrays["out.selected_prob"][step, row]
            torch.testing.assert_close(log_probs[now].exp(), expected[now], rtol=0, atol=1e-5)
            if step < params["timesteps"] - 1:  # the original hides one at the end too, which changes no result
                assert torch.equal(steps > step, arrays["out.remasked"][step, row])


def test_guidance_looks_at_the_codes_drawn_so_far(golden):
    """The trap: with the wrong cut, the unconditional half never changes; the right one holds the same image."""
    _, arrays = golden("image_generate_guidance_wrong_cut_trap")
    wrong, right = arrays["out.network_input_per_step"], arrays["alt.network_input_per_step_cut_at_S"]
    assert (wrong[:, 2:, 11:] == wrong[:1, 2:, 11:]).all()
    assert torch.equal(right[:, 2:, 11:], right[:, :2, 11:])


@pytest.mark.parametrize("case", [*DETERMINISTIC, "seeded_optional"])
def test_noise_and_mask_counts_are_those_of_the_original(golden, case):
    params, arrays = golden(f"image_generate_{case}")
    start = params.get("start_temperature_for_sequence", params["temperature"])
    steps = range(params["timesteps"])
    compounding = settings_of(params, remasking_temperature=start, remasking_anneal="compounding")
    found = torch.tensor([remasking_temperature(compounding, step) for step in steps]).double()
    torch.testing.assert_close(found, arrays["out.temperature_sequence"], rtol=0, atol=1e-6)
    if "alt.temperature_linear_anneal" in arrays:
        linear = settings_of(params, remasking_temperature=start)
        found = torch.tensor([remasking_temperature(linear, step) for step in steps]).double()
        torch.testing.assert_close(found, arrays["alt.temperature_linear_anneal"], rtol=0, atol=1e-6)
    num_hidden = (arrays["in.input_ids"] == params["mask_id"]).sum(dim=1)
    for step in steps:
        counts = mask_counts(settings_of(params), step, num_hidden)
        assert torch.equal(counts, arrays["out.mask_len"][step])
        num_hidden = counts


@pytest.mark.parametrize("temperature", ["0.0", "0.5", "1.0", "4.5"])
def test_the_least_sure_codes_are_hidden_again_as_in_the_original(golden, temperature):
    _, arrays = golden("mask_by_random_topk")
    confidence = arrays["in.probs"].clamp(min=1e-20).log() + float(temperature) * gumbel(arrays["in.uniform"])
    again = least_sure(confidence, arrays["in.mask_len"].long()[:, 0])
    assert torch.equal(again, arrays[f"out.masking_T{temperature}"])


@pytest.mark.parametrize("scale", [0.5, 3.5])
def test_guidance_is_the_formula_of_the_original(golden, scale):
    _, arrays = golden("cfg_formulas")
    logits = torch.cat([arrays["in.cond"], arrays["in.uncond"]]).float()

    def model(tokens, *, attention_mask, positions, num_positions, vocab_slice):
        assert vocab_slice == (40, 47)
        return SimpleNamespace(logits=logits.flatten(0, 1))

    params = {"seq_len": 3, "timesteps": 1, "schedule": "cosine", "guidance_scale": scale, "temperature": 0.0}
    prompt = torch.tensor([1, 2])
    samples = sample_images(
        model,
        [prompt, prompt],
        settings_of(params),
        vocabulary_of({"mask_id": 37, "text_vocab": 40, "codebook": 7}, eoi_id=3),
        unconditional=[prompt] * 2,
        generators=[torch.Generator()] * 2,
    )
    best = arrays[f"out.image_scale{scale}"].log_softmax(-1).max(-1)
    assert torch.equal(torch.stack([s.token_ids[2:5] - 40 for s in samples]), best.indices)
    log_probs = torch.stack([s.commit_log_probs[2:5] for s in samples])
    torch.testing.assert_close(log_probs, best.values.float(), rtol=1e-5, atol=1e-5)
