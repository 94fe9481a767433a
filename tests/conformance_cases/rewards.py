"""Checks the reward model for images."""

from __future__ import annotations

import torch
from PIL import Image

from rewards.imaging.image_reward_model import (
    ImageRewardModel,
    configs_of,
    to_pixels,
    to_transformers_names,
)

from .case import Case, recipe_weights


@torch.no_grad()
def check_image_reward(case: Case) -> None:
    params = case.params
    weights = recipe_weights(**params["weight_recipe"])
    heads = {"vision_heads": params["vision"]["num_heads"], "text_heads": params["text"]["num_attention_heads"]}
    network = ImageRewardModel(*configs_of(weights, **heads))
    network.load_state_dict(to_transformers_names(weights), strict=True)
    network.eval()
    seen = network.vision(pixel_values=case["in.image"]).last_hidden_state
    case.close("image_embeds", seen, case["out.image_embeds"], **case.allowed("out.image_embeds", atol=1e-4))
    hidden = network.text_hidden(case["in.token_ids"], case["in.attention_mask"], seen)
    case.close("text_hidden", hidden, case["out.text_hidden"], **case.allowed("out.text_hidden", atol=1e-4))
    score = network(case["in.token_ids"], case["in.attention_mask"], case["in.image"])
    close = case.allowed("out.score", atol=2e-4)
    case.close("raw_score", network.head(hidden[:, 0])[:, None], case["out.raw_score"], **close)
    case.close("score", score[:, None], case["out.score"], **close)


def check_preprocessing(case: Case) -> None:
    image = Image.fromarray(case["in.image_uint8_hwc"].numpy())
    case.close("image", to_pixels([image], case.params["size"])[0], case["out.image"], **case.allowed(atol=1e-5))


CHECKS = {"imagereward_preprocess": check_preprocessing, "imagereward_": check_image_reward}
