"""Checks image sampling, guidance, the image tokenizer and preprocessing."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from unigrpo.config import ImageSamplingConfig, TextSamplingConfig
from unigrpo.data.images import square_pixels
from unigrpo.models.guidance import guide
from unigrpo.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from unigrpo.models.magvit import SignQuantizer
from unigrpo.models.sampling.image import (
    UNKNOWN,
    gumbel,
    least_sure,
    mask_counts,
    remasking_temperature,
    sample_images,
)
from unigrpo.models.sampling.text import sample_text
from unigrpo.records import Trajectory

from .case import Case, recipe_weights, vocabulary


def settings_of(case: Case, **changes: Any) -> ImageSamplingConfig:
    params = case.params
    values = {
        "num_image_tokens": params["seq_len"],
        "num_denoising_steps": params["timesteps"],
        "schedule": params["schedule"],
        "guidance_scale": params["guidance_scale"],
        "remasking_temperature": params["temperature"],
        "temperature": 0.0,
    }
    return ImageSamplingConfig(**(values | changes))


def check_sampling(case: Case) -> None:
    """Compares codes, all inputs of the model, fixed positions, their probabilities, mask counts and temperatures.

    The released code cuts the unconditional prompt at the resolution. If that is wrong, ours must match the right cut.
    """
    check_counts_and_temperatures(case)
    size, steps = case.params["seq_len"], case.params["timesteps"]
    is_trap = "alt.image_codes_with_cut_at_S" in case
    codes = case["alt.image_codes_with_cut_at_S" if is_trap else "out.image_codes"]
    inputs = case["alt.network_input_per_step_cut_at_S" if is_trap else "out.network_input_per_step"]
    for row in range(len(codes)):
        sample, seen = sample_row(case, row)
        case.exact(f"codes of row {row}", sample.token_ids[-size - 1 : -1] - case.params["text_vocab"], codes[row])
        expected = inputs[:, row :: len(codes)].flatten(0, 1)
        case.require(f"{len(seen)} network inputs of row {row}, expected {len(expected)}", len(seen) == len(expected))
        for found, original in zip(seen, expected, strict=False):
            case.exact(f"network input of row {row}", found, original[-len(found) :])
        if is_trap:
            continue
        kept, log_probs = sample.commit_step[-size - 1 : -1], sample.commit_log_probs[-size - 1 : -1]
        for step in range(steps):
            now = kept == step
            close = case.allowed("selected_prob", atol=1e-5)
            expected = case["out.selected_prob"][step, row]
            case.close(f"probabilities of step {step}", log_probs[now].exp(), expected[now], **close)
            if step < steps - 1:  # the original also masks a code after the last step, which changes no result
                case.exact(f"hidden after step {step}", kept > step, case["out.remasked"][step, row])


def sample_row(case: Case, row: int) -> tuple[Trajectory, list[Tensor]]:
    """Samples one row alone, because each row may have other start- and end-of-image tokens.

    Returns:
        The sample, and the inputs of the model.
    """
    params, model, size = case.params, case.model(), case.params["seq_len"]
    ids, real = case["in.input_ids"][row], case["in.attention_mask"][row].bool()
    unconditional = None
    if "in.uncond_ids" in case:
        text = slice(None, params["S"] + 1)  # tokens from start-of-image on are those of the conditional row
        guide = case["in.uncond_ids"][row, text][case["in.uncond_attention_mask"][row, text].bool()]
        unconditional = [torch.cat([guide, ids[-size - 2 : -size - 1]])]
    given, seen = ids[-size - 1 : -1], []

    def spy(tokens: Tensor, *, attention_mask: Tensor | None, **kwargs: Any) -> Any:
        shown = torch.ones_like(tokens).bool() if attention_mask is None else attention_mask
        seen.extend(row[real] for row, real in zip(tokens, shown, strict=True))
        return model(tokens, attention_mask=attention_mask, **kwargs)

    ids_of = {"mask_id": params["mask_id"], "eoi_id": int(ids[-1]), "image_pad_id": 0}
    (sample,) = sample_images(
        spy,
        [ids[real][: -size - 1]],
        settings_of(case),
        vocabulary(**ids_of, image_offset=params["text_vocab"], codebook_size=params["codebook"]),
        unconditional=unconditional,
        known=[torch.where(given == params["mask_id"], UNKNOWN, given - params["text_vocab"])],
        generators=[torch.Generator()],
    )
    return sample, seen


def check_counts_and_temperatures(case: Case) -> None:
    params, steps = case.params, range(case.params["timesteps"])
    start = params.get("start_temperature_for_sequence", params["temperature"])
    close = case.allowed("temperature", "temperatures", atol=1e-6)
    for anneal, name in (("compounding", "out.temperature_sequence"), ("linear", "alt.temperature_linear_anneal")):
        if name in case:
            settings = settings_of(case, remasking_temperature=start, remasking_anneal=anneal)
            found = torch.tensor([remasking_temperature(settings, step) for step in steps], dtype=torch.float64)
            case.close(name, found, case[name], **close)
    num_hidden = (case["in.input_ids"][:, -params["seq_len"] - 1 : -1] == params["mask_id"]).sum(dim=1)
    for step in steps:
        counts = mask_counts(settings_of(case), step, num_hidden)
        case.exact(f"mask count of step {step}", counts, case["out.mask_len"][step])
        num_hidden = torch.minimum(num_hidden, counts)


@torch.no_grad()
def check_seeded_sampling(case: Case) -> None:
    """Compares samples of our functions with the random numbers of the original in its order."""
    check_counts_and_temperatures(case)
    params, model, size = case.params, case.model(), case.params["seq_len"]
    settings = settings_of(case, remasking_anneal="compounding")
    generator = torch.Generator().manual_seed(params["seed"])
    image, offset = slice(-size - 1, -1), params["text_vocab"]
    tokens, drawn = case["in.input_ids"].clone(), case["in.input_ids"][:, image]
    cut, scale = params["cut_parameter"] + 1, params["guidance_scale"]

    def logits_of(ids: Tensor, mask: str) -> Tensor:
        return model(ids, attention_mask=case[mask].bool()).logits[:, image, offset : offset + params["codebook"]]

    for step in range(params["timesteps"]):
        hidden = tokens[:, image] == params["mask_id"]
        logits = logits_of(tokens, "in.attention_mask")
        if scale > 0:
            empty = torch.cat([case["in.uncond_ids"][:, :cut], tokens[:, cut:]], dim=1)
            logits = guide(logits, logits_of(empty, "in.uncond_attention_mask"), scale)
        probs = logits.softmax(-1)
        codes = torch.multinomial(probs.flatten(0, 1), 1, generator=generator).view(hidden.shape)
        drawn = torch.where(hidden, codes + offset, tokens[:, image])
        confidence = probs.gather(2, codes[..., None])[..., 0].clamp(min=1e-20).log()
        noise = gumbel(torch.rand(hidden.shape, generator=generator)) * remasking_temperature(settings, step)
        again = least_sure(
            torch.where(hidden, confidence + noise, torch.inf), mask_counts(settings, step, hidden.sum(1))
        )
        case.exact(f"hidden after step {step}", again, case["out.remasked"][step])
        tokens[:, image] = torch.where(again, params["mask_id"], drawn)
    case.exact("codes", drawn - offset, case["out.image_codes"])


def check_remasking(case: Case) -> None:
    counts = case["in.mask_len"].long()[:, 0]
    for match in case.names(r"out\.masking_T([\d.]+)(_any_noise)?"):
        noise = gumbel(case["in.uniform"]) * float(match[1])
        found = least_sure(case["in.probs"].clamp(min=1e-20).log() + noise, counts)
        case.exact(match[0], found, case[match[0]])


def check_guidance(case: Case) -> None:
    """Compares the formula, and the greedy ids of the samplers with a model that returns the given logits."""
    rows, length, size = case["in.cond"].shape
    for match in case.names(r"out\.(text|image)_scale([\d.]+)"):
        formula = guide(case["in.cond"], case["in.uncond"], float(match[2]))
        case.close(match[0], formula, case[match[0]], **case.allowed(atol=1e-9))
        logits = torch.cat([case["in.cond"], case["in.uncond"]]).float()
        if match[1] == "text":  # one more id for the mask
            logits = torch.cat([logits, torch.full((2 * rows, length, 1), -1e4)], dim=-1)
        found = guided_ids(match[1], logits, float(match[2]), [torch.tensor([1, 2])] * rows, size)
        case.exact(f"ids of {match[0]}", found, case[match[0]].argmax(-1))


def guided_ids(kind: str, logits: Tensor, scale: float, prompts: list[Tensor], size: int) -> Tensor:
    length = logits.shape[1]

    def model(_: Tensor, **__: Any) -> Any:
        return SimpleNamespace(logits=logits.flatten(0, 1))

    generators = [torch.Generator()] * len(prompts)
    greedy: dict[str, Any] = {"num_denoising_steps": 1, "temperature": 0.0, "guidance_scale": scale}
    if kind == "text":
        text = TextSamplingConfig(max_new_tokens=length, block_length=length, **greedy)
        texts = sample_text(model, prompts, text, vocabulary(mask_id=size), generators=generators)
        return torch.stack([s.token_ids[2:] for s in texts])
    images = sample_images(
        model,
        prompts,
        ImageSamplingConfig(num_image_tokens=length, **greedy),
        vocabulary(image_offset=10, codebook_size=size),
        unconditional=prompts,
        generators=generators,
    )
    return torch.stack([s.token_ids[2:-1] - 10 for s in images])


def check_quantizer(case: Case) -> None:
    quantizer = SignQuantizer(case.params["bits"])
    case.exact("power_vals", quantizer.power_vals, case["out.power_vals"])
    case.exact("table", quantizer.embedding[case["in.table_rows"]], case["out.table"])
    if "out.table_full" in case:
        case.exact("table_full", quantizer.embedding, case["out.table_full"])
    codes = quantizer.codes(case["in.z"])
    case.exact("indices", codes[:, None], case["out.indices"])
    case.exact("indices_from_z_q", quantizer.codes(quantizer.bits(codes))[:, None], case["out.indices_from_z_q"])
    case.close("z_q", quantizer.bits(codes), case["out.z_q"], **case.allowed("out.z_q", atol=2e-6))
    for match in case.names(r"out\.entry_(square|\d+x\d+)"):
        entry = case[match[0]]
        name = f"in.codes_{match[1]}"
        # Two shapes may have the same array of codes.
        flat = case[name] if name in case else case[next(m[0] for m in case.names(r"in\.codes_\d+x\d+"))]
        case.exact(match[0], quantizer.bits(flat.unflatten(1, entry.shape[-2:])), entry)
    # The original loses the sign of huge numbers in rounding; the expected value is the sign.
    case.exact("indices_huge", quantizer.codes(case["in.z_huge"])[:, None], case["alt.indices_huge"])


def check_tokenizer(case: Case) -> None:
    """Compares encoder, codes and decoder with the weights of the recipe."""
    recipe, is_full = case.params["weight_recipe"], "manifest" in case.params["weight_recipe"]
    config = ImageTokenizerConfig()
    if is_full:
        manifest = json.loads((case.folder / recipe["manifest"]).read_text())
        recipe = {"tensors": manifest["tensors"], "seed": recipe.get("seed", manifest["seed"])}
    else:
        encoder, decoder = case.params["encoder"], case.params["decoder"]
        config = ImageTokenizerConfig(
            num_bits=case.params["bits"],
            stem_channels=encoder["ch"],
            encoder_channels=[encoder["ch"] * m for m in encoder["ch_mult"]],
            encoder_blocks=encoder["num_res_blocks"],
            decoder_channels=[decoder["ch"] * m for m in decoder["ch_mult"]],
            decoder_blocks=decoder["num_res_blocks"],
        )
    with torch.device("meta"):
        model = ImageTokenizer(config)
    tables = {f"quantize.{name}": buffer for name, buffer in SignQuantizer(config.num_bits).named_buffers()}
    model.load_state_dict(recipe_weights(recipe["tensors"], recipe["seed"]) | tables, assign=True)
    model.eval()
    pixels = case["in.image"]
    with torch.no_grad():
        latents = model.latents(pixels)
    case.close("pre_quant", latents, case["out.pre_quant"], **case.allowed("out.pre_quant", atol=2e-4))
    codes = model.encode(pixels)
    case.exact("indices", codes, case["out.indices"])
    close = case.allowed("out.decoded*", atol=5e-4)
    grid = (pixels.shape[2] // model.downscale, pixels.shape[3] // model.downscale)
    case.close("decoded_from_indices", model.decode(codes, grid), case["out.decoded_from_indices"], **close)
    case.close("decoded_square", model.decode(case["in.codes_square"]), case["out.decoded_square"], **close)
    if "out.decoded_square_uint8" in case:
        images = np.stack([np.array(image) for image in model.codes_to_images(case["in.codes_square"])])
        case.close("decoded_square_uint8", torch.from_numpy(images), case["out.decoded_square_uint8"], atol=1.0)


def check_preprocessing(case: Case) -> None:
    image, resolution = Image.fromarray(case["in.image_uint8_hwc"].numpy()), case.params["resolution"]
    close = case.allowed(atol=1e-6)
    if int(PIL.__version__.split(".")[0]) < 13:
        close["atol"] += 2 / 255  # older versions of Pillow differ by one grey level in a few pixels of a resize
    crop = square_pixels(image, resolution, "crop")
    case.close("resize_crop", crop, case["out.resize_crop"], **close)
    case.close("resize_crop_unnormalised", (crop + 1) / 2, case["out.resize_crop_unnormalised"], **close)
    case.close("stretch", square_pixels(image, resolution, "stretch"), case["out.squash"], **close)


CHECKS = {
    "image_generate_seeded": check_seeded_sampling,
    "image_generate_": check_sampling,
    "mask_by_random_topk": check_remasking,
    "cfg_formulas": check_guidance,
    "magvit_lfq": check_quantizer,
    "magvit_": check_tokenizer,
    "image_preprocess": check_preprocessing,
}
