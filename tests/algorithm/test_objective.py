"""The whole objective: the original implementations' numbers, its invariances, and its metrics."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from unigrpo.algorithm.kl import kl_divergence
from unigrpo.algorithm.policy_loss import policy_loss
from unigrpo.algorithm.reduction import Denominators, fixed_length, masked_token_mean, token_mean
from unigrpo.algorithm.unigrpo_loss import ObjectiveSums, unigrpo_loss
from unigrpo.rng import keyed_generator

AGGREGATIONS = ["masked_token_mean", "token_mean", "fixed_length"]
GOLDEN_TOLERANCE: dict[str, Any] = {"rtol": 2e-5, "atol": 1e-6}
"""Stated by the golden cases, which are float32."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """What the objective takes, B = 6, L = 10; the log-probabilities differ enough for both clips to be in force."""

    log_probs: torch.Tensor
    old_log_probs: torch.Tensor
    ref_log_probs: torch.Tensor
    advantages: torch.Tensor
    scored: torch.Tensor
    mask_ratio: torch.Tensor

    def rows(self, index):
        return Batch(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})


@pytest.fixture
def batch():
    generator = keyed_generator("objective")
    log_probs = -3 * torch.rand(6, 10, generator=generator, dtype=torch.float64)
    nudges = 0.4 * torch.randn(2, 6, 10, generator=generator, dtype=torch.float64)
    mask_ratio = torch.tensor([0.1, 0.2, 0.45, 0.8, 1.0, 0.0], dtype=torch.float64)
    scored = torch.rand(6, 10, generator=generator, dtype=torch.float64) < mask_ratio[:, None]
    scored[0, 3] = True
    return Batch(
        log_probs, log_probs + nudges[0], log_probs + nudges[1], torch.linspace(-2, 2, 6).double(), scored, mask_ratio
    )


def whole(batch):
    return Denominators(
        num_responses=float(len(batch.scored)),
        num_tokens=float(batch.scored.sum()),
        response_length=float(batch.scored.shape[1]),
    )


def evaluate(batch, denominators=None, **settings):
    """Loss, gradient and sums."""
    log_probs = batch.log_probs.clone().requires_grad_()
    defaults: dict[str, Any] = {"kl_coef": 0.3, "clip_high": 0.28}
    loss, sums = unigrpo_loss(
        log_probs,
        batch.old_log_probs,
        batch.ref_log_probs,
        batch.advantages,
        batch.scored,
        batch.mask_ratio,
        denominators=denominators or whole(batch),
        **(defaults | settings),
    )
    (gradient,) = torch.autograd.grad(loss, log_probs)
    return loss.detach(), gradient, sums


def test_the_loss_is_that_of_a_loop_over_responses_and_tokens(batch):
    total = 0.0
    for row in range(6):
        tokens = batch.scored[row].nonzero().flatten().tolist()
        for i in tokens:
            ratio = math.exp(batch.log_probs[row, i] - batch.old_log_probs[row, i])
            advantage = batch.advantages[row].item()
            surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)
            d = (batch.ref_log_probs[row, i] - batch.log_probs[row, i]).item()
            total += (-surrogate + 0.3 * (math.exp(d) - d - 1)) / len(tokens) / 6
    assert evaluate(batch)[0].item() == pytest.approx(total)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("kl_estimator", ["k1", "k2", "k3"])
def test_the_gradient_is_that_of_finite_differences(batch, aggregation, kl_estimator):
    def loss(log_probs):
        return unigrpo_loss(
            log_probs,
            batch.old_log_probs,
            batch.ref_log_probs,
            batch.advantages,
            batch.scored,
            batch.mask_ratio,
            denominators=whole(batch),
            kl_coef=0.3,
            kl_estimator=kl_estimator,
            aggregation=aggregation,
        )[0]

    assert torch.autograd.gradcheck(loss, (batch.log_probs.requires_grad_(),))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("cuts", [(3, 3), (1, 5), (2, 1, 3), (1,) * 6])
def test_micro_batches_of_any_size_add_up_to_the_whole_batch(batch, aggregation, cuts):
    loss, gradient, sums = evaluate(batch, aggregation=aggregation)
    shards = [batch.rows(rows) for rows in torch.arange(6).split(cuts)]
    parts = [evaluate(shard, whole(batch), aggregation=aggregation) for shard in shards]
    torch.testing.assert_close(sum(part[0] for part in parts), loss)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient)
    added = parts[0][2]
    for part in parts[1:]:
        added = added + part[2]
    assert added.metrics() == pytest.approx(sums.metrics())


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_row_order_changes_nothing(batch, aggregation):
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    loss, gradient, sums = evaluate(batch, aggregation=aggregation)
    shuffled = evaluate(batch.rows(order), aggregation=aggregation)
    torch.testing.assert_close(shuffled[0], loss)
    torch.testing.assert_close(shuffled[1], gradient[order])
    assert shuffled[2].metrics() == pytest.approx(sums.metrics())


def test_padding_changes_nothing(batch):
    def pad(values, fill):
        return torch.nn.functional.pad(values, (2, 3), value=fill)

    padded = Batch(
        pad(batch.log_probs, torch.nan),
        pad(batch.old_log_probs, 7.0),
        pad(batch.ref_log_probs, -torch.inf),
        batch.advantages,
        pad(batch.scored, False),
        batch.mask_ratio,
    )
    loss, gradient, sums = evaluate(batch)
    padded_loss, padded_gradient, padded_sums = evaluate(padded, whole(batch))
    torch.testing.assert_close(padded_loss, loss)
    torch.testing.assert_close(padded_gradient, pad(gradient, 0.0))
    assert padded_sums.metrics() == pytest.approx(sums.metrics())


def test_equal_policies_have_ratio_exactly_one_and_kl_exactly_zero(batch):
    same = dataclasses.replace(batch, old_log_probs=batch.log_probs.clone(), ref_log_probs=batch.log_probs.clone())
    metrics = evaluate(same)[2].metrics()
    assert metrics["ratio/mean"] == 1.0
    assert metrics["ratio/max"] == 1.0
    assert metrics["kl/reference_nats"] == 0.0
    assert metrics["loss/kl"] == 0.0
    assert metrics["ratio/clipped_fraction"] == 0.0


def test_the_first_gradient_is_minus_the_advantage_over_the_tokens_of_the_response(batch):
    same = dataclasses.replace(batch, old_log_probs=batch.log_probs.clone())
    gradient = evaluate(same, kl_coef=0.0)[1]
    count = batch.scored.sum(dim=1).clamp(min=1)
    expected = -(batch.advantages / count / 6)[:, None] * batch.scored
    torch.testing.assert_close(gradient, expected)


def test_zero_advantages_leave_only_the_gradient_of_the_kl(batch):
    idle = dataclasses.replace(batch, advantages=torch.zeros(6, dtype=torch.float64))
    assert (evaluate(idle, kl_coef=0.0)[1] == 0).all()
    kl_only = evaluate(idle, kl_coef=0.3)[1]
    with_advantages = evaluate(batch, kl_coef=0.3)[1] - evaluate(batch, kl_coef=0.0)[1]
    torch.testing.assert_close(kl_only, with_advantages)
    assert (kl_only != 0).any()


@pytest.mark.parametrize("kl_estimator", ["k1", "k2", "k3"])
def test_the_kl_is_that_of_its_estimator(batch, kl_estimator):
    kl = kl_divergence(batch.log_probs, batch.ref_log_probs, batch.scored, kl_estimator)
    metrics = evaluate(batch, kl_estimator=kl_estimator)[2].metrics()
    assert metrics["kl/reference_nats"] == pytest.approx(kl[batch.scored].mean().item())
    assert metrics["loss/kl"] == pytest.approx(0.3 * response_mean(kl, batch.scored).item())


def test_a_coefficient_of_zero_measures_the_kl_without_following_it(batch):
    without = dataclasses.replace(batch, ref_log_probs=None)
    loss, gradient, sums = evaluate(batch, kl_coef=0.0)
    torch.testing.assert_close(evaluate(without)[0], loss)
    torch.testing.assert_close(evaluate(without)[1], gradient)
    assert sums.metrics()["kl/reference_nats"] > 0
    assert evaluate(without)[2].metrics()["kl/reference_nats"] == 0


def test_metrics_are_means_over_scored_tokens_and_clip_fractions_by_mask_ratio(batch):
    metrics = evaluate(batch)[2].metrics()
    ratio = (batch.log_probs - batch.old_log_probs).exp()
    kl = kl_divergence(batch.log_probs, batch.ref_log_probs, batch.scored)
    advantages = batch.advantages[:, None]
    clipped = ((advantages > 0) & (ratio > 1.28)) | ((advantages < 0) & (ratio < 0.8))
    assert metrics["ratio/mean"] == pytest.approx(ratio[batch.scored].mean().item())
    assert metrics["ratio/max"] == pytest.approx(ratio[batch.scored].max().item())
    assert metrics["kl/reference_nats"] == pytest.approx(kl[batch.scored].mean().item())
    assert metrics["ratio/clipped_fraction"] == pytest.approx(clipped[batch.scored].double().mean().item())
    assert metrics["tokens/scored"] == batch.scored.sum().item()
    assert metrics["loss/total"] == pytest.approx(evaluate(batch)[0].item())
    # Rows by bin of their mask ratio; no row lies in [0.50, 0.75).
    bins = {"0.00_0.25": [0, 1, 5], "0.25_0.50": [2], "0.75_1.00": [3, 4]}
    for name, rows in bins.items():
        expected = clipped[rows][batch.scored[rows]].double().mean().item()
        assert metrics[f"ratio/clipped_fraction_mask_{name}"] == pytest.approx(expected)
    assert "ratio/clipped_fraction_mask_0.50_0.75" not in metrics


def test_a_micro_batch_without_scored_tokens_gives_zero_and_finite_metrics(batch):
    nothing = dataclasses.replace(batch, scored=torch.zeros_like(batch.scored))
    loss, gradient, sums = evaluate(nothing, whole(batch))
    assert loss == 0
    assert (gradient == 0).all()
    assert all(math.isfinite(value) for value in sums.metrics().values())


def test_sums_of_ranks_are_added_and_the_largest_ratio_is_the_maximum():
    one = ObjectiveSums(sums=torch.arange(12.0), ratio_max=torch.tensor(3.0), by_task=torch.ones(3, 2))
    two = ObjectiveSums(sums=torch.ones(12), ratio_max=torch.tensor(2.0), by_task=torch.ones(3, 2))
    assert (one + two).sums.tolist() == [i + 1.0 for i in range(12)]
    assert (one + two).ratio_max == 3.0
    assert (one + two).by_task.tolist() == [[2.0, 2.0]] * 3


def test_rows_with_settings_of_their_own_are_those_of_separate_batches():
    generator = torch.Generator().manual_seed(0)
    new, old, ref = (torch.randn(4, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    advantages = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    scored = torch.rand(4, 5, generator=generator) < 0.7
    ratio = torch.full((4,), 0.5)
    counts = Denominators(num_responses=4.0, num_tokens=float(scored.sum()), response_length=5.0)
    low, high, beta, weight = ([0.2, 0.2, 0.1, 0.1], [0.3, 0.3, 0.5, 0.5], [0.1, 0.1, 0.0, 0.0], [1.0, 1.0, 0.4, 0.4])
    columns: dict[str, Any] = {
        name: torch.tensor(values, dtype=torch.float64)
        for name, values in (("clip_low", low), ("clip_high", high), ("kl_coef", beta), ("loss_coef", weight))
    }
    loss, sums = unigrpo_loss(
        new, old, ref, advantages, scored, ratio, denominators=counts, task_ids=torch.tensor([0, 0, 1, 1]),
        num_tasks=2, **columns,
    )  # fmt: skip
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        part, part_sums = unigrpo_loss(
            new[rows], old[rows], ref[rows], advantages[rows], scored[rows], ratio[rows], denominators=counts,
            **{name: values[rows] for name, values in columns.items()},
        )  # fmt: skip
        parts.append((part, part_sums))
    assert loss.item() == pytest.approx(sum(part.item() for part, _ in parts), rel=1e-12)
    metrics = sums.metrics(["a", "b"])
    for task, (_, part_sums) in zip(("a", "b"), parts, strict=True):
        own = part_sums.metrics()
        assert metrics[f"kl/reference_nats/{task}"] == pytest.approx(own["kl/reference_nats"])
        assert metrics[f"ratio/clipped_fraction/{task}"] == pytest.approx(own["ratio/clipped_fraction"])


def golden_loss(
    arrays,
    clip_low,
    clip_high,
    beta,
    *,
    policy,
    kl,
    kl_estimator="k3",
    old: str | None = "in.lp_old",
    scored="in.mask",
):
    """Loss and gradient from the parts; ``policy`` and ``kl`` are the reductions of the two terms."""
    log_probs = arrays["in.lp_new"].clone().requires_grad_()
    old_log_probs = log_probs.detach().clone() if old is None else arrays[old]
    is_scored = arrays[scored].bool()
    advantages = arrays.get("in.advantage_per_token", arrays.get("in.advantage"))
    advantages = advantages[:, None] if advantages.ndim == 1 else advantages
    surrogate = policy_loss(
        log_probs, old_log_probs, advantages, is_scored, clip_low=clip_low, clip_high=clip_high, max_log_ratio=10.0
    )
    reference = arrays.get("in.lp_ref", old_log_probs)
    divergence = kl_divergence(log_probs, reference, is_scored, kl_estimator)
    loss = policy(surrogate.loss, is_scored) + beta * kl(divergence, is_scored)
    loss.backward()
    return loss, log_probs.grad


def check_golden(loss, gradient, arrays, name):
    torch.testing.assert_close(loss[None], arrays[f"out.loss.{name}"], **GOLDEN_TOLERANCE)
    torch.testing.assert_close(gradient, arrays[f"out.grad.{name}"], **GOLDEN_TOLERANCE)


def response_mean(values, scored):
    return masked_token_mean(values, scored, num_responses=float(len(values)))


def response_sum(values, scored):
    return fixed_length(values, scored, num_responses=float(len(values)), length=1.0)


def batch_mean(values, scored):
    return token_mean(values, scored, num_tokens=float(scored.sum()))


RANDOM_MASKING = [(0.2, 0.0, 1), (0.2, 0.01, 1), (0.2, 0.5, 1), (0.2, 0.5, 0), (0.05, 0.01, 1)]


@pytest.mark.parametrize(("clip", "beta", "k3"), RANDOM_MASKING)
def test_the_parts_give_loss_and_gradient_of_random_masking_rl(golden, clip, beta, k3):
    """Its KL, to the old policy, is a sum over tokens beside a mean of surrogates."""
    _, arrays = golden("rl_random_masking_objective")
    loss, gradient = golden_loss(
        arrays, clip, clip, beta, policy=response_mean, kl=response_sum, kl_estimator="k3" if k3 else "k1"
    )
    check_golden(loss, gradient, arrays, f"eps{clip}_beta{beta}_k3{k3}")


@pytest.mark.parametrize(("beta", "k3"), [(0.0, 1), (0.5, 1), (0.5, 0)])
def test_the_parts_give_loss_and_gradient_with_advantages_by_token(golden, beta, k3):
    _, arrays = golden("rl_objective_value_model_variant")
    loss, gradient = golden_loss(
        arrays, 0.2, 0.2, beta, policy=response_mean, kl=response_mean, kl_estimator="k3" if k3 else "k1"
    )
    check_golden(loss, gradient, arrays, f"eps0.2_beta{beta}_k3{k3}")


@pytest.mark.parametrize(("clip", "beta", "updates"), [(0.2, 0.0, 2), (0.5, 0.04, 2), (0.2, 0.04, 1)])
def test_the_parts_give_loss_and_gradient_of_diffu_grpo(golden, clip, beta, updates):
    _, arrays = golden("d1_clipped_loss")
    loss, gradient = golden_loss(
        arrays,
        clip,
        clip,
        beta,
        policy=batch_mean,
        kl=batch_mean,
        old="in.lp_old" if updates > 1 else None,
        scored="in.completion_mask",
    )
    name = f"eps{clip}_beta{beta}_iters{updates}"
    check_golden(loss, gradient, arrays, name)
    if beta > 0:
        scored = arrays["in.completion_mask"].bool()
        kl = batch_mean(kl_divergence(arrays["in.lp_new"], arrays["in.lp_ref"], scored), scored)
        torch.testing.assert_close(kl[None], arrays[f"out.kl.{name}"], **GOLDEN_TOLERANCE)


@pytest.mark.parametrize("kind", ["grpo", "bnpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize(
    ("high", "beta", "level"), [(0.2, 0.0, "token"), (0.28, 0.04, "token"), (0.2, 0.0, "sequence")]
)
def test_the_parts_give_loss_and_gradient_of_trl(golden, kind, high, beta, level):
    params, arrays = golden("trl_clipped_loss")
    reductions = {
        "grpo": response_mean,
        "bnpo": batch_mean,
        "dapo": lambda values, scored: token_mean(values, scored, num_tokens=float(params["num_items_in_batch"])),
        "dr_grpo": lambda values, scored: fixed_length(
            values, scored, num_responses=4.0, length=float(params["max_completion_length"])
        ),
    }
    scored = arrays["in.completion_mask"].bool()
    log_probs = arrays["in.lp_new"].clone().requires_grad_()
    policies = [log_probs, arrays["in.lp_old"]]
    if level == "sequence":
        # One ratio for the whole response: that of the mean log-probabilities.
        policies = [((x * scored).sum(dim=1) / scored.sum(dim=1))[:, None].expand(scored.shape) for x in policies]
    surrogate = policy_loss(
        policies[0], policies[1], arrays["in.advantage"][:, None], scored, clip_low=0.2, clip_high=high
    )
    divergence = kl_divergence(log_probs, arrays["in.lp_ref"], scored)
    loss = reductions[kind](surrogate.loss + beta * divergence, scored)
    loss.backward()
    check_golden(loss, log_probs.grad, arrays, f"{kind}_low0.2_high{high}_beta{beta}_{level}")


def test_the_objective_is_its_parts(golden):
    """So what holds for the parts above holds for it."""
    _, arrays = golden("d1_clipped_loss")
    scored = arrays["in.completion_mask"].bool()
    expected, gradient = golden_loss(
        arrays, 0.5, 0.5, 0.04, policy=batch_mean, kl=batch_mean, scored="in.completion_mask"
    )
    log_probs = arrays["in.lp_new"].clone().requires_grad_()
    loss, _ = unigrpo_loss(
        log_probs,
        arrays["in.lp_old"],
        arrays["in.lp_ref"],
        arrays["in.advantage"],
        scored,
        torch.full((4,), 0.5),
        denominators=Denominators(num_responses=4.0, num_tokens=float(scored.sum()), response_length=7.0),
        clip_low=0.5,
        clip_high=0.5,
        kl_coef=0.04,
        aggregation="token_mean",
    )
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(log_probs.grad, gradient)
