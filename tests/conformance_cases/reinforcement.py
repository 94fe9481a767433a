"""Checks objectives, masked rows, likelihoods and advantages of released RL code for masked-diffusion models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo.algorithm.advantage.base import group_advantages
from unigrpo.algorithm.entries import (
    Columns,
    Counts,
    Entries,
    Units,
    per_unit,
    reduce_units,
    unit_counts,
    units,
    unscored_entries,
)
from unigrpo.algorithm.kl import kl_estimate
from unigrpo.algorithm.likelihood.all_masked import AllMasked
from unigrpo.algorithm.likelihood.base import Row, Views
from unigrpo.algorithm.likelihood.coupled import coupled_weights
from unigrpo.algorithm.likelihood.random_masking import mean_over_views
from unigrpo.algorithm.likelihood.trace import trace_views
from unigrpo.algorithm.masking import apply_mask, bernoulli_mask
from unigrpo.algorithm.objective.base import load_objective

from .case import Case

NUMBER = r"([\d.]+)"


@dataclass(frozen=True)
class Reduction:
    """A reduction of the losses of units to one number. The default divisors are those of the whole batch."""

    how: str
    num_tokens: float | None = None
    length: float = 1.0


RESPONSE_MEAN = Reduction("masked_token_mean")
RESPONSE_SUM = Reduction("fixed_length")
BATCH_MEAN = Reduction("token_mean")


@dataclass(frozen=True)
class Batch:
    """Padded rows (B, L) as entries of the library, with one view of weight 1 and one span for each response."""

    entries: Entries
    columns: Columns
    advantages: Tensor

    @classmethod
    def of(
        cls, log_probs: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, scored: Tensor, **settings: Any
    ) -> Batch:
        """Makes a batch of the arrays of a case, with advantages of responses (B,) or of tokens (B, L)."""
        views = [Views(is_masked=row[None], weight=row[None].float(), rate=torch.ones(1, len(row))) for row in scored]
        entries = unscored_entries(views, [torch.ones(len(row), dtype=torch.long) for row in scored])
        at = entries.sample, entries.position
        by_token = advantages.ndim == 2
        entries = replace(
            entries, log_probs=log_probs[at], old=old[at], ref=reference[at],
            token_advantage=advantages[at] if by_token else None,
        )  # fmt: skip
        count, ones = len(scored), torch.ones(len(scored))
        low, high = settings.get("clips", (0.2, 0.2))
        columns = Columns(
            advantage=torch.zeros(count, 1) if by_token else advantages[:, None], group=torch.arange(count),
            task=torch.zeros(count, dtype=torch.long), num_tokens=scored.sum(dim=1, keepdim=True).float(),
            num_views=ones[:, None], max_tokens=ones, clip_low=low * ones, clip_high=high * ones, kl_coef=ones,
            loss_coef=ones, num_units={}, row_length=scored.shape[1],
        )  # fmt: skip
        levels = ("token", "sequence")
        counts = {level: unit_counts(units(entries, columns, level), columns) for level in levels}
        return cls(entries, replace(columns, num_units=counts), advantages)

    def surrogate(self, reduction: Reduction, **options: Any) -> Tensor:
        """Returns the loss of the objective `clipped` with the given options."""
        found = load_objective("clipped", options).losses(self.entries, self.columns)
        return self.reduced(found.loss, found.units, reduction)

    def divergence(self, reduction: Reduction, estimator: str = "k3") -> Tensor:
        """Returns the estimate of the KL to the reference."""
        assert self.entries.ref is not None
        grouped = units(self.entries, self.columns, "token")
        kl = kl_estimate(per_unit(self.entries.ref - self.entries.log_probs, grouped), estimator)
        return self.reduced(kl, grouped, reduction)

    def reduced(self, values: Tensor, grouped: Units, reduction: Reduction) -> Tensor:
        num_tokens = reduction.num_tokens or float(self.columns.num_tokens.sum())
        counts = Counts(num_responses=float(len(self.advantages)), num_tokens={grouped.level: num_tokens})
        columns = replace(self.columns, max_tokens=torch.full_like(self.columns.max_tokens, reduction.length))
        return reduce_units(values, grouped, columns, reduction.how, counts)


def objective(
    log_probs: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, scored: Tensor, **settings: Any
) -> Tensor:
    """Returns the sum of surrogate and KL; ``policy`` and ``kl`` in the settings are the reductions of these terms."""
    clip = settings["clip"]
    # The original code clamps log-ratios to +-10, and the library to +-20.
    near = old + (log_probs - old).clamp(-10, 10)
    surrogate = Batch.of(near, old, reference, advantages, scored, clips=(clip, clip)).surrogate(settings["policy"])
    whole = Batch.of(log_probs, old, reference, advantages, scored)
    return surrogate + settings["beta"] * whole.divergence(settings["kl"], settings.get("kl_estimator", "k3"))


def compare(case: Case, name: str, log_probs: Tensor, loss: Tensor) -> None:
    """Compares a loss and its gradient with respect to the log-probabilities."""
    close = case.allowed(atol=1e-6, rtol=2e-5)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    case.close(f"loss.{name}", loss[None], case[f"out.loss.{name}"], **close)
    case.close(f"grad.{name}", gradient, case[f"out.grad.{name}"], **close)


def check_random_masking_objective(case: Case) -> None:
    """Compares losses with a mean of surrogates and a sum of the KL to the old policy; with a value model, both are
    means."""
    by_token = "in.advantage_per_token" in case
    advantages = case["in.advantage_per_token" if by_token else "in.advantage"]
    scored, old = case["in.mask"].bool(), case["in.lp_old"]
    parts: dict[str, Any] = {"policy": RESPONSE_MEAN, "kl": RESPONSE_MEAN if by_token else RESPONSE_SUM}
    for match in case.names(rf"out\.loss\.(eps{NUMBER}_beta{NUMBER}_k3([01]))"):
        log_probs = case["in.lp_new"].clone().requires_grad_()
        settings = {
            "clip": float(match[2]),
            "beta": float(match[3]),
            "kl_estimator": "k3" if match[4] == "1" else "k1",
        }
        compare(case, match[1], log_probs, objective(log_probs, old, old, advantages, scored, **parts, **settings))
    close = case.allowed(atol=1e-6, rtol=2e-5)
    batch = Batch.of(case["in.lp_new"], old, old, advantages, scored)
    if "unit.kl_k3_sum_over_batch" in case:
        case.close(
            "kl_k3_sum_over_batch", batch.divergence(RESPONSE_SUM)[None], case["unit.kl_k3_sum_over_batch"], **close
        )
    if "alt.kl_k3_mean_per_row" in case:
        case.close(
            "kl_k3_mean_per_row", batch.divergence(RESPONSE_MEAN)[None], case["alt.kl_k3_mean_per_row"], **close
        )


def check_end_to_end(case: Case) -> None:
    model, scored, old = case.model(), case["in.mask"].bool(), case["in.lp_old"]
    out = model(case["in.noisy_ids"], positions=scored, targets=case["in.labels"][scored])
    log_probs = torch.zeros(scored.shape).masked_scatter(scored, out.log_probs)
    case.close("lp_new", log_probs[scored], case["out.lp_new"][scored], **case.allowed("lp", atol=2e-4))
    parts: dict[str, Any] = {"policy": RESPONSE_MEAN, "kl": RESPONSE_SUM, "clip": 0.2, "beta": 0.01}  # case's "checks"
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
        parts: dict[str, Any] = {"policy": BATCH_MEAN, "kl": BATCH_MEAN}
        settings = {"clip": float(match[2]), "beta": float(match[3])}
        loss = objective(log_probs, old, reference, case["in.advantage"], scored, **parts, **settings)
        compare(case, match[1], log_probs, loss)
        if f"out.kl.{match[1]}" in case:
            kl = Batch.of(log_probs.detach(), old, reference, case["in.advantage"], scored).divergence(BATCH_MEAN)
            close = case.allowed(atol=1e-6, rtol=2e-5)
            case.close(f"kl.{match[1]}", kl[None], case[f"out.kl.{match[1]}"], **close)


def check_trl(case: Case) -> None:
    params, scored = case.params, case["in.completion_mask"].bool()
    reductions = {
        "grpo": RESPONSE_MEAN,
        "bnpo": BATCH_MEAN,
        "dapo": Reduction("token_mean", num_tokens=float(params["num_items_in_batch"])),
        "dr_grpo": Reduction("fixed_length", length=float(params["max_completion_length"])),
    }
    pattern = rf"out\.loss\.((\w+?)_low{NUMBER}_high{NUMBER}_beta{NUMBER}_(token|sequence))"
    for match in case.names(pattern):
        log_probs = case["in.lp_new"].clone().requires_grad_()
        policies = (log_probs, case["in.lp_old"], case["in.lp_ref"])
        batch = Batch.of(*policies, case["in.advantage"], scored, clips=(float(match[3]), float(match[4])))
        # The ratio of a response is that of the mean log-probabilities.
        options = {"level": "sequence", "normalise": "weights"} if match[6] == "sequence" else {}
        reduction = reductions[match[2]]
        loss = batch.surrogate(reduction, **options) + float(match[5]) * batch.divergence(reduction)
        compare(case, match[1], log_probs, loss)


def row_of(token_ids: Tensor, response: Tensor) -> Row:
    """Returns a row whose whole response is scored."""
    nothing = torch.zeros_like(response)
    return Row(
        token_ids=token_ids, response_mask=response, scored_mask=response, image_mask=nothing, span=response.long(),
        commit_step=response.long() - 1, commit_log_probs=nothing.float(),
    )  # fmt: skip


@torch.no_grad()
def check_prompt_masking(case: Case) -> None:
    params, model, x0 = case.params, case.model(), case["in.sequences"]
    num_prompt, mask_id = params["prompt_length"], params["mask_id"]
    response = (torch.arange(x0.shape[1]) >= num_prompt).expand(x0.shape)
    views = [AllMasked(0.0).views(row_of(*row), 0.5, torch.Generator()) for row in zip(x0, response, strict=True)]
    is_masked = torch.cat([one.is_masked for one in views])
    case.require("weights are not 1 on the response", bool((torch.cat([v.weight for v in views]) == response).all()))
    share = torch.full((len(x0),), params["p_mask_prompt"])
    close = case.allowed("logps", atol=2e-4)

    def noised(draws: Tensor) -> Tensor:
        hidden_prompt = bernoulli_mask(draws, share, ~response, at_least_one=False)
        return apply_mask(x0, is_masked | hidden_prompt, mask_id)

    for iteration, draws in enumerate(case["in.rand_matrices"]):
        xt = noised(draws)
        if iteration == 0:
            case.exact("noisy_first", xt, case["out.noisy_first"])
        out = model(xt, positions=response, targets=x0[response])
        log_probs = torch.zeros(x0.shape).masked_scatter(response, out.log_probs)
        found = log_probs[:, num_prompt:]
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
    # TRL divides by the unbiased standard deviation plus 1e-4. Our advantage is the difference, which is divided here.
    spread = centred.square().sum(dim=1).div(rewards.shape[1] - 1).sqrt()
    case.close("group_std_unbiased", spread, case["out.group_std_unbiased"], **close)
    case.close("trl_scale_group", centred / (spread[:, None] + 1e-4), case["out.trl_scale_group"], **close)
    case.close("trl_scale_batch", centred / (rewards.std() + 1e-4), case["out.trl_scale_batch"], **close)


def check_equal_rewards(case: Case) -> None:
    """Checks that equal rewards have the advantage 0, which the original misses because of rounding."""
    for match in case.names(r"in\.rewards\.(\d+)"):
        rewards = case[match[0]]
        found = group_advantages(rewards, torch.zeros(len(rewards), dtype=torch.long))
        case.exact(match[0], found, torch.zeros_like(rewards))


def check_rows(case: Case) -> None:
    """Compares masked rows of random masking, of masks with their complements, and of the order of generation."""
    params, labels, noisy = case.params, case["out.labels"], case["out.noisy"]
    kind = case.name.removeprefix("rl_rows_")
    clean, response, steps = rows_of(case)
    is_end = response & (clean == params["eos"])
    scored = response & (is_end.cumsum(dim=1) - is_end.long() < params["post_num"])
    rewards = torch.tensor(params["reward"])
    if "trace" in kind.lower():
        traced = [trace_views(step, own, params["shrink"]) for step, own in zip(steps, scored, strict=True)]
        repeats = torch.tensor([len(hidden) for hidden, _ in traced])
        hidden, counted = (torch.cat(parts) for parts in zip(*traced, strict=True))
    else:
        times = params["mask_times_per_sample"]
        repeats = torch.full((len(clean),), times)
        whole = scored.repeat_interleave(repeats, 0)
        tail = (response & ~scored).repeat_interleave(repeats, 0)
        ratio = params["lower_p"] + (params["upper_p"] - params["lower_p"]) * case["in.t_uniform"]
        # The random numbers of the case mask no token outside the response. The tail of the response is always masked.
        masked = bernoulli_mask(case["in.rand_rows"], ratio, whole, at_least_one=False)
        if "coupled" in kind:
            views = torch.stack([whole, masked, whole & ~masked])
            weight = coupled_weights(views, ratio)
            hidden, counted = (x[1:].transpose(0, 1).flatten(0, 1) for x in (views | tail, weight > 0))
            repeats = repeats * 2
        else:
            hidden, counted = masked | tail, mean_over_views(masked[None])[0] > 0
    rows = clean.repeat_interleave(repeats, 0)
    case.exact("noisy", apply_mask(rows, hidden, params["mask_id"]), noisy)
    case.exact("labels", rows.masked_fill(~response.repeat_interleave(repeats, 0), -100), labels)
    case.exact("loss_mask", counted, case["out.loss_mask"])
    case.exact("advantage", rewards.repeat_interleave(repeats), case["out.advantage"])


def rows_of(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Returns clean rows, response masks and steps, (B, L) each, padded on the left as in the original.

    In the original, the response starts after the last header of the prompt, and may include a token of the prompt.
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


def step_advantages(
    values: Float[Tensor, "R L"],
    scored: Bool[Tensor, "R L"],
    sequence: Int[Tensor, " R"],
    step: Int[Tensor, " R"],
    rewards: Float[Tensor, " S"],
    *,
    discount: float,
    decay: float,
) -> tuple[Float[Tensor, "R L"], Float[Tensor, "R L"]]:
    """Returns generalised advantages over the steps of a response, with a value for each token.

    A step's value is the mean over its scored tokens, and the reward comes with the last step. The advantage of a
    token is measured from its own value: ``r + discount V' - V_token + discount decay A'`` with value and advantage of
    the next step.

    Args:
        values: Value of each token, in the units of the reward.
        scored: Mask of the tokens of the step of each row. Rows without such tokens are left out.
        sequence: Number of the response of each row.
        step: Position of each row among the rows of its response.
        rewards: Reward of each response.
        discount: The factor gamma.
        decay: The factor lambda.

    Returns:
        Advantages and discounted returns, which are 0 at tokens that are not scored.
    """
    advantages, returns = torch.zeros_like(values), torch.zeros_like(values)
    for number, reward in enumerate(rewards):
        rows = ((sequence == number) & scored.any(dim=1)).nonzero().flatten()
        value = advantage = later = values.new_zeros(())  # those of the next step, which are 0 for the last step
        for i, row in enumerate(rows[step[rows].argsort(descending=True)]):
            now = scored[row]
            own = reward if i == 0 else torch.zeros_like(reward)
            gain = own + discount * (value + decay * advantage)
            later = own + discount * later
            value = values[row, now].mean()
            advantage = gain - value
            advantages[row, now] = gain - values[row, now]
            returns[row, now] = later
    return advantages, returns


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
