"""Checks text sampling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unigrpo.config import TextSamplingConfig
from unigrpo.models.sampling.remasking import commit_counts, most_confident
from unigrpo.models.sampling.text import sample_text
from unigrpo.models.sampling.tokens import sample_tokens
from unigrpo.records import Trajectory

from .case import Case, NotApplicable, vocabulary


def sample(case: Case, prompts: list[Tensor], end_id: int, **changes: Any) -> list[Trajectory]:
    params = case.params
    settings = TextSamplingConfig(
        max_new_tokens=params["gen_length"],
        num_denoising_steps=params["steps"],
        block_length=params["block_length"],
        guidance_scale=params.get("cfg_scale", 0.0),
        remasking=params.get("remasking", "low_confidence"),
        temperature=0.0,
        **{"stop_at_end_of_text": False, **changes},
    )
    generators = [torch.Generator() for _ in prompts]
    ids = vocabulary(mask_id=params["mask_id"], end_of_text_id=end_id)
    return sample_text(case.model(), prompts, settings, ids, generators=generators)


def check_greedy(case: Case) -> None:
    """Compares ids and the steps at which they are fixed. Our sampler gets padded prompts without their padding."""
    width, prompts = case["in.prompt"].shape[1], list(case["in.prompt"])
    if "in.attention_mask" in case:
        prompts = [row[mask[:width].bool()] for row, mask in zip(prompts, case["in.attention_mask"], strict=True)]
    for row, one in enumerate(sample(case, prompts, end_id=0)):
        case.exact(f"ids of row {row}", one.token_ids, case["out.ids"][row][width - len(prompts[row]) :])
        case.exact(f"steps of row {row}", one.commit_step, case["out.commit_step"][row][width - len(prompts[row]) :])


def check_early_stop(case: Case) -> None:
    """Compares texts up to their end. The original stops if a block ends in end-of-text in all rows, ours stops by
    row."""
    prompts, end, mask = list(case["in.prompt"]), case.params["eot_token"], case.params["mask_id"]
    width, block = case["in.prompt"].shape[1], case.params["block_length"]
    whole = torch.stack([one.token_ids for one in sample(case, prompts, end)])
    case.exact("ids without stopping", whole, case["alt.ids_without_stop"])
    sampled = case["out.ids"] != mask
    case.exact("ids before the original stops", whole[sampled], case["out.ids"][sampled])
    for row, one in enumerate(sample(case, prompts, end, stop_at_end_of_text=True)):
        ends = (whole[row, width:] == end).nonzero().flatten().tolist()
        stop = width + (ends[0] // block + 1) * block if ends else whole.shape[1]
        case.exact(f"ids of row {row} up to the block of its first end", one.token_ids[:stop], whole[row, :stop])
        case.require(f"row {row} is not padded behind its end", bool((one.token_ids[stop:] == end).all()))


def check_mask_in_prompt(case: Case) -> None:
    try:
        sample(case, list(case["in.prompt"]), end_id=0)
    except ValueError as error:
        raise NotApplicable(f"refused on purpose: {error}") from error
    case.require("a prompt with mask tokens was not refused", False)


def check_seeded(case: Case) -> None:
    """Compares samples of our functions with the random numbers of the original in its order."""
    for name, temperature in (("out.ids_temperature1", 1.0), ("out.ids_random_remasking", 0.0)):
        case.exact(name, seeded(case, temperature, random="random" in name), case[name])


@torch.no_grad()
def seeded(case: Case, temperature: float, *, random: bool) -> Tensor:
    params, model, prompt = case.params, case.model(), case["in.prompt"]
    generator = torch.Generator().manual_seed(params["seed"])
    tokens = torch.nn.functional.pad(prompt, (0, params["gen_length"]), value=params["mask_id"])
    blocks = params["gen_length"] // params["block_length"]
    for block in range(blocks):
        end = prompt.shape[1] + (block + 1) * params["block_length"]
        for count in commit_counts(params["block_length"], params["steps"] // blocks):
            logits = model(tokens).logits.double()
            drawn = logits.argmax(-1)
            if temperature > 0:
                uniform = torch.rand(logits.shape, dtype=torch.float64, generator=generator)
                drawn = sample_tokens((logits / temperature).flatten(0, 1), -uniform.log().flatten(0, 1)).view(
                    tokens.shape
                )
            confidence = logits.softmax(-1).gather(2, drawn[..., None])[..., 0]
            if random:
                confidence = torch.rand(tokens.shape, generator=generator).double()
            hidden = tokens == params["mask_id"]
            hidden[:, end:] = False
            chosen = most_confident(confidence.masked_fill(~hidden, -torch.inf), count)
            tokens = torch.where(chosen, drawn, tokens)
    return tokens


def check_counts(case: Case) -> None:
    padding = case.params["padding"]
    width = case["out.counts"].shape[1]
    found = []
    for masked, steps in case["in.masks_steps"].tolist():
        found.append(commit_counts(masked, steps) + [padding] * (width - steps))
    case.exact("counts", torch.tensor(found), case["out.counts"])


def check_gumbel(case: Case) -> None:
    """Compares our draws with the arg-max of the values to which the original has added noise."""
    logits, uniform = case["in.logits"].flatten(0, -2), case["in.uniform"].flatten(0, -2)
    for match in case.names(r"out\.argmax_T([\d.]+)"):
        temperature, expected = float(match[1]), case[match[0]]
        drawn = sample_tokens(logits / temperature, -uniform.log()) if temperature > 0 else logits.argmax(-1)
        case.exact(match[0], drawn.view(expected.shape), expected)


CHECKS = {
    "text_generate_early_stop": check_early_stop,
    "text_generate_mask_in_prompt": check_mask_in_prompt,
    "text_generate_seeded": check_seeded,
    "text_generate_": check_greedy,
    "num_transfer_tokens": check_counts,
    "gumbel_noise": check_gumbel,
}
