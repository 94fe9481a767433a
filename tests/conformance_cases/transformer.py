"""Checks the model: logits, hidden states, rotation and norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from unigrpo.models.fused_ops import rotate
from unigrpo.models.transformer_block import RMSNorm, rotary_table

from .case import Case

ATTENTIONS = ("eager", "sdpa")


def check_plain(case: Case) -> None:
    """Compares logits of ids or embeddings without a mask, and hidden states if the case has them."""
    for attention in ATTENTIONS:
        model = case.model(attention)
        if "in.inputs_embeds" in case:
            out = model(inputs_embeds=case["in.inputs_embeds"], output_hidden_states=True)
        else:
            out = model(case["in.input_ids"], output_hidden_states=True)
        case.close(f"logits ({attention})", out.logits, case["out.logits"], **tolerance(case))
        last = len(out.hidden_states) - 1
        for i, state in enumerate(out.hidden_states):
            if f"out.hidden.{i}" in case:
                # The last state of the original is the output of the final norm.
                state = model.transformer.ln_f(state) if i == last else state
                case.close(f"hidden.{i} ({attention})", state, case[f"out.hidden.{i}"], **tolerance(case))


def check_bfloat16(case: Case) -> None:
    logits = case.model().bfloat16()(case["in.input_ids"]).logits
    case.require(f"logits are {logits.dtype}, expected bfloat16", logits.dtype == torch.bfloat16)
    case.close("logits", logits.float(), case["out.logits"], **case.allowed(atol=0.35, rtol=0.05))


def check_boolean_mask(case: Case) -> None:
    real = case["in.attention_mask"].bool()
    for attention in ATTENTIONS:
        for mask in (real, case["in.attention_bias"].bool()):
            logits = case.model(attention)(case["in.input_ids"], attention_mask=mask).logits
            case.close(f"logits ({attention})", logits[real], case["out.logits"][real], **tolerance(case))


def check_padding_hides(case: Case) -> None:
    """Compares logits with masked padding with the alternative of the case; the original adds the mask or becomes
    causal."""
    name = "alt.logits_if_masking_worked"
    expected = case[name if name in case else "alt.logits_key_padding_bidirectional"]
    real = case["in.attention_mask"].bool()
    for attention in ATTENTIONS:
        logits = case.model(attention)(case["in.input_ids"], attention_mask=real).logits
        case.close(f"logits ({attention})", logits[real], expected[real], **tolerance(case))
    if "in.attention_bias_float" in case:
        logits = with_bias(case, case["in.attention_bias_float"])
        case.close("logits (added bias)", logits, case["out.logits"], **tolerance(case))


def check_added_bias(case: Case) -> None:
    case.close("logits", with_bias(case, case["in.attention_bias"]), case["out.logits"], **tolerance(case))


def with_bias(case: Case, bias: Tensor) -> Tensor:
    """Returns logits with numbers added to the attention scores, by the attention interface of transformers."""

    def added(_: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **__: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = query @ key.transpose(-1, -2) * scaling + bias
        return (scores.softmax(dim=-1) @ value).transpose(1, 2), None

    AttentionInterface.register("added_bias", added)
    return case.model("added_bias")(case["in.input_ids"]).logits


def check_rotation(case: Case) -> None:
    params, close = case.params, case.allowed(atol=1e-5, rtol=1e-5)
    cos, sin = rotary_table(len(case["out.cos"]), params["head_dim"], params["rope_theta"], torch.device("cpu"))
    case.close("cos", cos, case["out.cos"], **close)
    case.close("sin", sin, case["out.sin"], **close)
    for name in ("q", "k"):
        x = case[f"in.{name}"]
        case.close(name, rotate(x, cos[: x.shape[2]], sin[: x.shape[2]]), case[f"out.{name}"], **close)


def check_norm(case: Case) -> None:
    for suffix, expected, close in [
        ("", "out.float32", case.allowed(atol=1e-6, rtol=1e-5)),
        ("_bf16", "out.bf16", {"atol": 0.0, "rtol": 2.0**-7}),  # one unit in the last place
    ]:
        x, weight = case[f"in.x{suffix}"], case[f"in.weight{suffix}"]
        norm = RMSNorm(x.shape[-1], case.params["eps"]).to(x.dtype)
        norm.load_state_dict({"weight": weight})
        case.close(expected, norm(x), case[expected], **close)


def tolerance(case: Case) -> dict[str, float]:
    return case.allowed(atol=2e-4, rtol=2e-5)


CHECKS = {
    "transformer_bf16": check_bfloat16,
    "transformer_boolbias": check_boolean_mask,
    "transformer_float01bias": check_padding_hides,
    "transformer_hf_attention_mask": check_padding_hides,
    "transformer_additive_bias": check_added_bias,
    "transformer_": check_plain,
    "unit_rope": check_rotation,
    "unit_rmsnorm": check_norm,
}
