"""Objectives, masked rows, likelihoods and advantages of the RL code that MMaDA's family released."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unigrpo.algorithm.advantage.base import group_advantages
from unigrpo.algorithm.kl import kl_divergence
from unigrpo.algorithm.likelihood.all_masked import AllMasked
from unigrpo.algorithm.likelihood.base import combine_views, response_plan
from unigrpo.algorithm.likelihood.coupled import coupled_weights
from unigrpo.algorithm.likelihood.random_masking import mean_over_views
from unigrpo.algorithm.masking import apply_mask, bernoulli_mask
from unigrpo.algorithm.policy_loss import policy_loss
from unigrpo.algorithm.reduction import fixed_length, masked_token_mean, token_mean
from unigrpo.algorithm.trace import step_advantages, trace_views
from unigrpo.records import SequenceMasks
from unigrpo.rng import keyed_generator

from .case import Case

Reduction = Callable[[Tensor, Tensor], Tensor]
NUMBER = r"([\d.]+)"


def response_mean(values: Tensor, scored: Tensor) -> Tensor:
    return masked_token_mean(values, scored, num_responses=float(len(values)))


def response_sum(values: Tensor, scored: Tensor) -> Tensor:
    return fixed_length(values, scored, num_responses=float(len(values)), length=1.0)


def batch_mean(values: Tensor, scored: Tensor) -> Tensor:
    return token_mean(values, scored, num_tokens=float(scored.sum()))


def objective(
    log_probs: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, scored: Tensor, **settings: Any
) -> Tensor:
    """Loss from the parts; ``policy`` and ``kl`` in the settings are the reductions of the two terms."""
    surrogate = policy_loss(
        log_probs,
        old,
        advantages[:, None] if advantages.ndim == 1 else advantages,
        scored,
        clip_low=settings["clip"],
        clip_high=settings.get("clip_high", settings["clip"]),
        max_log_ratio=10.0,
    )
    divergence = kl_divergence(log_probs, reference, scored, settings.get("kl_estimator", "k3"))
    return settings["policy"](surrogate.loss, scored) + settings["beta"] * settings["kl"](divergence, scored)


def compare(case: Case, name: str, log_probs: Tensor, loss: Tensor) -> None:
    """A loss and its gradient with respect to the log-probabilities."""
    close = case.allowed(atol=1e-6, rtol=2e-5)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    case.close(f"loss.{name}", loss[None], case[f"out.loss.{name}"], **close)
    case.close(f"grad.{name}", gradient, case[f"out.grad.{name}"], **close)


def check_random_masking_objective(case: Case) -> None:
    """The KL, to the old policy, is a sum over tokens beside a mean of surrogates; with a value model a mean too."""
    by_token = "in.advantage_per_token" in case
    advantages = case["in.advantage_per_token" if by_token else "in.advantage"]
    scored, old = case["in.mask"].bool(), case["in.lp_old"]
    parts: dict[str, Any] = {"policy": response_mean, "kl": response_mean if by_token else response_sum}
    for match in case.names(rf"out\.loss\.(eps{NUMBER}_beta{NUMBER}_k3([01]))"):
        log_probs = case["in.lp_new"].clone().requires_grad_()
        settings = {
            "clip": float(match[2]),
            "beta": float(match[3]),
            "kl_estimator": "k3" if match[4] == "1" else "k1",
        }
        compare(case, match[1], log_probs, objective(log_probs, old, old, advantages, scored, **parts, **settings))
    close = case.allowed(atol=1e-6, rtol=2e-5)
    kl = kl_divergence(case["in.lp_new"], old, scored)
    if "unit.kl_k3_sum_over_batch" in case:
        case.close("kl_k3_sum_over_batch", response_sum(kl, scored)[None], case["unit.kl_k3_sum_over_batch"], **close)
    if "alt.kl_k3_mean_per_row" in case:
        case.close("kl_k3_mean_per_row", response_mean(kl, scored)[None], case["alt.kl_k3_mean_per_row"], **close)


def check_end_to_end(case: Case) -> None:
    model, scored, old = case.model(), case["in.mask"].bool(), case["in.lp_old"]
    out = model(case["in.noisy_ids"], positions=scored, targets=case["in.labels"][scored])
    log_probs = torch.zeros(scored.shape).masked_scatter(scored, out.log_probs)
    case.close("lp_new", log_probs[scored], case["out.lp_new"][scored], **case.allowed("lp", atol=2e-4))
    parts: dict[str, Any] = {"policy": response_mean, "kl": response_sum, "clip": 0.2, "beta": 0.01}  # case's "checks"
    loss = objective(log_probs, old, old, case["in.advantage"], scored, **parts)
    loss.backward()
    case.close("loss", loss[None], case["out.loss"], **case.allowed("loss", atol=0.0, rtol=1e-4))
    close = case.allowed("grad", atol=2e-5, rtol=2e-3)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    first = gradients["model.transformer.blocks.0.q_proj.weight"]
    case.close("grad_q_proj_block0", first, case["out.grad_q_proj_block0"], **close)
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    case.close("grad_global_norm", norm[None], case["out.grad_global_norm"], **close)


def check_diffu_grpo(case: Case) -> None:
    scored, reference = case["in.completion_mask"].bool(), case["in.lp_ref"]
    for match in case.names(rf"out\.loss\.(eps{NUMBER}_beta{NUMBER}_iters(\d+))"):
        log_probs = case["in.lp_new"].clone().requires_grad_()
        old = case["in.lp_old"] if int(match[4]) > 1 else log_probs.detach()
        parts: dict[str, Any] = {"policy": batch_mean, "kl": batch_mean}
        settings = {"clip": float(match[2]), "beta": float(match[3])}
        loss = objective(log_probs, old, reference, case["in.advantage"], scored, **parts, **settings)
        compare(case, match[1], log_probs, loss)
        if f"out.kl.{match[1]}" in case:
            kl = batch_mean(kl_divergence(log_probs.detach(), reference, scored), scored)
            close = case.allowed(atol=1e-6, rtol=2e-5)
            case.close(f"kl.{match[1]}", kl[None], case[f"out.kl.{match[1]}"], **close)


def check_trl(case: Case) -> None:
    params, scored = case.params, case["in.completion_mask"].bool()
    reductions: dict[str, Reduction] = {
        "grpo": response_mean,
        "bnpo": batch_mean,
        "dapo": lambda values, mask: token_mean(values, mask, num_tokens=float(params["num_items_in_batch"])),
        "dr_grpo": lambda values, mask: fixed_length(
            values, mask, num_responses=float(len(values)), length=float(params["max_completion_length"])
        ),
    }
    pattern = rf"out\.loss\.((\w+?)_low{NUMBER}_high{NUMBER}_beta{NUMBER}_(token|sequence))"
    for match in case.names(pattern):
        log_probs = case["in.lp_new"].clone().requires_grad_()
        policies = [log_probs, case["in.lp_old"]]
        if match[6] == "sequence":
            # One ratio for the whole response: that of the mean log-probabilities.
            lengths = scored.sum(dim=1).clamp(min=1)
            policies = [((x * scored).sum(dim=1) / lengths)[:, None].expand(scored.shape) for x in policies]
        clips = {"clip_low": float(match[3]), "clip_high": float(match[4])}
        surrogate = policy_loss(policies[0], policies[1], case["in.advantage"][:, None], scored, **clips)
        divergence = kl_divergence(log_probs, case["in.lp_ref"], scored)
        loss = reductions[match[2]](surrogate.loss + float(match[5]) * divergence, scored)
        compare(case, match[1], log_probs, loss)


@torch.no_grad()
def check_prompt_masking(case: Case) -> None:
    params, model, x0 = case.params, case.model(), case["in.sequences"]
    num_prompt, mask_id = params["prompt_length"], params["mask_id"]
    response = (torch.arange(x0.shape[1]) >= num_prompt).expand(x0.shape)
    masks = SequenceMasks(token_mask=torch.ones_like(response), response_mask=response, scored_mask=response)
    rows = len(x0)
    plan = AllMasked(0.0).draw(masks, torch.full((rows,), 0.5), [keyed_generator(row) for row in range(rows)])
    share = torch.full((rows,), params["p_mask_prompt"])
    close = case.allowed("logps", atol=2e-4)

    def noised(draws: Tensor) -> Tensor:
        hidden_prompt = bernoulli_mask(draws, share, ~response, at_least_one=False)
        return apply_mask(x0, plan.is_masked[0] | hidden_prompt, mask_id)

    for iteration, draws in enumerate(case["in.rand_matrices"]):
        xt = noised(draws)
        if iteration == 0:
            case.exact("noisy_first", xt, case["out.noisy_first"])
        out = model(xt, positions=response, targets=x0[response])
        log_probs = torch.zeros(x0.shape).masked_scatter(response, out.log_probs)
        found = combine_views(log_probs[None], plan)[:, num_prompt:]
        case.close(f"logps of iteration {iteration}", found, case["out.logps"][iteration], **close)
        for match in case.names(rf"out\.logps_guidance{NUMBER}"):
            without = model(torch.where(response, xt, mask_id)).logits
            guided = without + (float(match[1]) + 1) * (model(xt).logits - without)
            found = guided.log_softmax(-1).gather(2, x0[..., None])[:, num_prompt:, 0]
            case.close(f"{match[0]} of iteration {iteration}", found, case[match[0]][iteration], **close)
    for match in case.names(r"out\.noisy_seed(\d+)_optional"):
        draws = torch.rand(x0.shape, generator=torch.Generator().manual_seed(int(match[1])))
        case.exact(match[0], noised(draws), case[match[0]])


def check_advantages(case: Case) -> None:
    rewards = case["in.rewards"]
    groups = torch.arange(len(rewards)).repeat_interleave(rewards.shape[1])
    close = case.allowed(atol=1e-5)
    centred = group_advantages(rewards.flatten(), groups, "mean_only").view(rewards.shape)
    for name in ("out.d1", "out.trl_scale_none"):
        case.close(name, centred, case[name], **close)
    normalised = group_advantages(rewards.double().flatten(), groups).view(rewards.shape)
    case.close("zscore", normalised, case["out.dllm_rl_zscore_float64"], atol=1e-12, rtol=1e-6)
    # TRL's spread is the unbiased one with 1e-4 added; ours centres, and the division is written out here.
    spread = centred.square().sum(dim=1).div(rewards.shape[1] - 1).sqrt()
    case.close("group_std_unbiased", spread, case["out.group_std_unbiased"], **close)
    case.close("trl_scale_group", centred / (spread[:, None] + 1e-4), case["out.trl_scale_group"], **close)
    case.close("trl_scale_batch", centred / (rewards.std() + 1e-4), case["out.trl_scale_batch"], **close)


def check_equal_rewards(case: Case) -> None:
    """The original is misled by rounding; equal rewards have advantage 0."""
    for match in case.names(r"in\.rewards\.(\d+)"):
        rewards = case[match[0]]
        found = group_advantages(rewards, torch.zeros(len(rewards), dtype=torch.long))
        case.exact(match[0], found, torch.zeros_like(rewards))


def check_rows(case: Case) -> None:
    """Masked rows of random masking, of masks with their complements, and of the order of writing."""
    params, labels, noisy = case.params, case["out.labels"], case["out.noisy"]
    kind = case.name.removeprefix("rl_rows_")
    clean, response, steps = rows_of(case)
    is_end = response & (clean == params["eos"])
    scored = response & (is_end.cumsum(dim=1) - is_end.long() < params["post_num"])
    masks = SequenceMasks(token_mask=response, response_mask=response, scored_mask=scored)
    rewards = torch.tensor(params["reward"])
    if "trace" in kind.lower():
        views = [trace_views(step, own, params["shrink"]) for step, own in zip(steps, scored, strict=True)]
        repeats = torch.tensor([len(hidden) for hidden, _ in views])
        hidden, counted = (torch.cat(parts) for parts in zip(*views, strict=True))
    else:
        times = params["mask_times_per_sample"]
        repeats = torch.full((len(clean),), times)
        masks = SequenceMasks(
            token_mask=response.repeat_interleave(repeats, 0),
            response_mask=response.repeat_interleave(repeats, 0),
            scored_mask=scored.repeat_interleave(repeats, 0),
        )
        ratio = params["lower_p"] + (params["upper_p"] - params["lower_p"]) * case["in.t_uniform"]
        # What is drawn can be hidden nowhere else than in the response; its tail is hidden with all its tokens.
        drawn = bernoulli_mask(case["in.rand_rows"], ratio, masks.scored_mask, at_least_one=False)
        if "coupled" in kind:
            whole = masks.scored_mask
            plan_views = torch.stack([whole, drawn, whole & ~drawn])
            plan = response_plan(plan_views, coupled_weights(plan_views, ratio), masks)
            hidden, counted = (x[1:].transpose(0, 1).flatten(0, 1) for x in (plan.is_masked, plan.weight > 0))
            repeats = repeats * 2
        else:
            plan = response_plan(drawn[None], mean_over_views(drawn[None]), masks)
            hidden, counted = plan.is_masked[0], plan.weight[0] > 0
    rows = clean.repeat_interleave(repeats, 0)
    case.exact("noisy", apply_mask(rows, hidden, params["mask_id"]), noisy)
    case.exact("labels", rows.masked_fill(~response.repeat_interleave(repeats, 0), -100), labels)
    case.exact("loss_mask", counted, case["out.loss_mask"])
    case.exact("advantage", rewards.repeat_interleave(repeats), case["out.advantage"])


def rows_of(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Clean rows, their responses and steps, padded on the left as the original does; (B, L) each.

    Its response starts behind the last header of the prompt, and so takes a prompt token along where one follows.
    """
    params, rows, starts = case.params, [], []
    for image, prompt, answer in zip(params["image_ids"], params["prompt_ids"], params["response_ids"], strict=True):
        header = len(prompt) - prompt[::-1].index(params["end_header"])
        rows.append([params["mmu_id"], params["soi"], *image, params["eoi"], *prompt, *answer])
        starts.append(len(rows[-1]) - len(answer) - (len(prompt) - header))
    longest = max(map(len, rows))
    clean = torch.tensor([[params["eos"]] * (longest - len(row)) + row for row in rows])
    first = torch.tensor([start + longest - len(row) for row, start in zip(rows, starts, strict=True)])
    steps = torch.full(clean.shape, -1)
    for row, (begin, own) in enumerate(zip(first.tolist(), params["step_map"], strict=True)):
        steps[row, begin : begin + len(own)] = torch.tensor(own)[: longest - begin]
    return clean, torch.arange(longest) >= first[:, None], steps


def check_step_advantages(case: Case) -> None:
    found = step_advantages(
        case["in.values"],
        case["in.loss_mask"].bool(),
        case["in.sequence_of_row"],
        case["in.step_of_row"],
        case["in.reward_per_sequence"],
        discount=case.params["gamma"],
        decay=case.params["lam"],
    )
    for name, values in zip(("out.advantage", "out.return"), found, strict=True):
        case.close(name, values, case[name], **case.allowed(atol=1e-5))


CHECKS = {
    "rl_random_masking_objective": check_random_masking_objective,
    "rl_objective_value_model": check_random_masking_objective,
    "rl_random_masking_end_to_end": check_end_to_end,
    "rl_rows": check_rows,
    "rl_gae": check_step_advantages,
    "d1_clipped_loss": check_diffu_grpo,
    "d1_masking": check_prompt_masking,
    "trl_clipped_loss": check_trl,
    "group_zscore": check_equal_rewards,
    "group_advantages": check_advantages,
}
