"""Measures bias, noise and cost of the gradient of every estimator with every objective by enumeration.

python tests/benchmarks/estimators.py               # measures (some minutes) and writes results/cpu/estimators.json
python tests/benchmarks/estimators.py --docs_only   # writes docs/estimators.md from this file
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from enumerable import (
    GUIDANCE_SCALE,
    LENGTH,
    NUM_TOKENS,
    PLACE,
    RESPONSES,
    SAMPLERS,
    Sampler,
    Trajectory,
    expected_reward,
    jacobian,
    log_prob_table,
    make_model,
    trajectories,
)
from measure import RESULTS, write
from torch import Tensor

from unigrpo import plugins
from unigrpo.algorithm.entries import Columns, Counts, Entries, tokens_of, unit_counts, units, unscored_entries
from unigrpo.algorithm.likelihood.base import PACKAGE as ESTIMATORS
from unigrpo.algorithm.likelihood.base import Views, load_estimator
from unigrpo.algorithm.objective.base import PACKAGE as OBJECTIVES
from unigrpo.algorithm.objective.base import Objective, load_objective
from unigrpo.rng import keyed_generator

PAGE = Path(__file__).parents[2] / "docs" / "estimators.md"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "all_masked": ("all_masked", {"prompt_mask_ratio": 0.0}),
    "block_masks": ("block_masks", {"context_mask_ratio": 0.0, "block_length": 2}),
    "trace, 2 steps per view": ("trace", {"steps_per_view": 2}),
    "trace, 1 uncertain view": ("trace", {"num_views": 1, "choose": "uncertain"}),
}
"""Options that replace defaults that mask the prompt, and further variants of an estimator."""
LEVELS: dict[str, tuple[str, dict[str, Any]]] = {
    "clipped, token": ("clipped", {"level": "token"}),
    "clipped, view_token": ("clipped", {"level": "view_token"}),
    "clipped, sequence": ("clipped", {"level": "sequence"}),
}
"""Variants of `clipped`; the other objectives have their defaults."""
MOVE = 0.1
"""Mean difference in nats between the log-probabilities of the updated policy and of the behaviour policy."""
REPLAYS = ("trace", "left_to_right")
"""Estimators that depend on the order in which the tokens of a response were fixed."""
DRAWS_OF_VARIANCE = 3
"""Number of draws from which the variance is estimated."""


@dataclass(frozen=True)
class World:
    """A sampler, a reward, and two policies: the behaviour policy, and one after updates towards a higher reward."""

    written: Sequence[Trajectory]
    rewards: Tensor
    """Advantage of each response: its reward minus the exact mean reward of the sampler."""
    old: Tensor
    """Table of log-probabilities under the behaviour policy."""
    policies: Mapping[str, tuple[Tensor, Tensor, Tensor]]
    """Log-probabilities of each policy, and inner products of their gradients with each other and the exact
    gradient."""
    exact_square: Mapping[str, float]
    """Squared norm of the exact gradient of each policy."""

    @classmethod
    def make(cls, sampler: Sampler, scores_guided: bool, seed: int) -> World:
        """Makes a random model and a random reward."""
        scale = GUIDANCE_SCALE if sampler == "image, guided" else 0.0
        model = make_model(seed)
        generator = torch.Generator().manual_seed(seed)
        rewards = torch.randn(len(RESPONSES), generator=generator, dtype=torch.float64)
        parameters = list(model.parameters())

        def measured() -> tuple[Tensor, Tensor, Tensor, Tensor]:
            drawn_from = log_prob_table(model, scale)
            exact = torch.autograd.grad(expected_reward(rewards, drawn_from, sampler), parameters)
            exact = torch.cat([one.flatten() for one in exact])
            scored = log_prob_table(model, scale if scores_guided else 0.0)
            gradients = jacobian(scored, parameters)
            return drawn_from.detach(), scored.detach(), gradients, exact

        drawn_from, old, gradients, exact = measured()
        found = trajectories(drawn_from, sampler)
        mean = sum(one.probability * rewards[one.response] for one in found)
        policies = {"at the start": (old, gradients @ gradients.T, gradients @ exact)}
        squares = {"at the start": float(exact @ exact)}
        _move(parameters, exact, lambda: log_prob_table(model, scale).detach(), drawn_from)
        _, scored, gradients, exact = measured()
        policies["after a move"] = (scored, gradients @ gradients.T, gradients @ exact)
        squares["after a move"] = float(exact @ exact)
        return cls(found, rewards - mean, old, policies, squares)

    def samples(self, replays: bool) -> list[Trajectory]:
        """Returns all trajectories if their order matters to the estimator, and otherwise one for each response."""
        if replays:
            return list(self.written)
        by_response: dict[int, Trajectory] = {}
        for one in self.written:
            before = by_response[one.response].probability if one.response in by_response else 0.0
            by_response[one.response] = replace(one, probability=before + one.probability)
        return list(by_response.values())


def _move(parameters: Sequence[Tensor], direction: Tensor, table: Any, start: Tensor) -> None:
    """Moves the weights along a direction until the log-probabilities differ by :data:`MOVE` on average."""
    before = [one.detach().clone() for one in parameters]
    parts = (direction / direction.norm()).split([one.numel() for one in parameters])

    def distance(step: float) -> float:
        with torch.no_grad():
            for one, value, part in zip(parameters, before, parts, strict=True):
                one.copy_(value + step * part.view_as(value))
        return (table() - start).abs().mean().item()

    low, high = 0.0, 1.0
    while distance(high) < MOVE:
        high *= 2
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(middle) < MOVE else (low, middle)


def methods() -> tuple[dict[str, tuple[str, dict[str, Any]]], dict[str, tuple[str, dict[str, Any]]]]:
    """Returns all estimators and all objectives, which are found by their files."""
    names = [name for name in plugins.available(ESTIMATORS) if name not in VARIANTS]
    estimators = VARIANTS | {name: (name, {}) for name in names}
    objectives = LEVELS | {name: (name, {}) for name in plugins.available(OBJECTIVES) if name != "clipped"}
    return dict(sorted(estimators.items())), objectives


@dataclass(frozen=True)
class Draw:
    """The views of some trajectories, as entries that refer to a table."""

    written: Sequence[Trajectory]
    entries: Entries
    place: Tensor
    """Index of each entry in a flat table."""
    num_views: Tensor

    @classmethod
    def make(cls, name: str, options: dict[str, Any], written: Sequence[Trajectory], number: int) -> Draw:
        """Draws the views as training does, with a mask ratio and a generator for each sample."""
        estimator = load_estimator(name, options)
        views: list[Views] = []
        for i, one in enumerate(written):
            ratio = torch.rand(1, generator=keyed_generator(i, number, "ratio")).item()
            views.append(estimator.views(one.row, ratio, keyed_generator(i, number, "mask")))
        entries = unscored_entries(views, [one.row.span for one in written])
        place: list[int] = []
        for sample, view, position in zip(
            entries.sample.tolist(), entries.view.tolist(), entries.position.tolist(), strict=True
        ):
            tokens = written[sample].row.token_ids[1:].tolist()
            masked = views[sample].is_masked[view, 1:].tolist()
            context = tuple(NUM_TOKENS if m else t for m, t in zip(masked, tokens, strict=True))
            place.append((PLACE[context] * LENGTH + position - 1) * NUM_TOKENS + tokens[position - 1])
        counts = torch.tensor([v.num_views for v in views])
        return cls(written, entries, torch.tensor(place, dtype=torch.long), counts)

    @property
    def chance(self) -> Tensor:
        """Returns the probability of each trajectory."""
        return torch.tensor([one.probability for one in self.written], dtype=torch.float64)

    @property
    def passes(self) -> float:
        """Returns the mean number of views."""
        return float(self.chance @ self.num_views.double())


def columns_of(draw: Draw, advantages: Tensor) -> Columns:
    """Returns columns in which every sample is a separate group, so that its loss depends on no other sample."""
    number = len(advantages)

    def column(value: float) -> Tensor:
        return torch.full((number,), value, dtype=torch.float64)

    columns = Columns(
        advantage=advantages[:, None],
        group=torch.arange(number),
        task=torch.zeros(number, dtype=torch.long),
        num_tokens=column(LENGTH)[:, None],
        num_views=draw.num_views.double()[:, None],
        max_tokens=column(LENGTH),
        clip_low=column(0.2),
        clip_high=column(0.2),
        kl_coef=column(0.0),
        loss_coef=column(1.0),
        num_units={},
        row_length=LENGTH + 1,
        tasks=("text",),
    )
    return columns


def coefficients(objective: Objective, draw: Draw, world: World, scores: Tensor) -> Tensor:
    """Returns the negative derivative of the loss of each sample by each entry of the table (samples, entries).

    The loss here is the sum over the tokens instead of the mean, as the log-likelihood in the exact gradient is a sum.
    """
    advantages = torch.stack([world.rewards[one.response] for one in draw.written])
    leaf = scores.flatten()[draw.place].requires_grad_()
    entries = replace(
        draw.entries,
        log_probs=leaf,
        old=world.old.flatten()[draw.place],
        weight=draw.entries.weight.double(),
        rate=draw.entries.rate.double(),
    )
    columns = columns_of(draw, advantages)
    grouped = units(entries, columns, objective.level)
    columns = replace(columns, num_units={objective.level: unit_counts(grouped, columns)})
    counts = Counts(num_responses=1.0, num_tokens={objective.level: tokens_of(grouped)})
    loss, _ = objective(entries, columns, counts, "masked_token_mean")
    (found,) = torch.autograd.grad(loss, leaf)
    result = torch.zeros(len(advantages), scores.numel(), dtype=torch.float64)
    return result.index_put((draw.entries.sample, draw.place), -LENGTH * found, accumulate=True)


def measured(world: World, draws: Sequence[Draw], objective: Objective, policy: str) -> dict[str, float]:
    """Returns cosine and bias of the mean gradient relative to the exact gradient, and the variance of one
    response."""
    scores, products, with_exact = world.policies[policy]
    mean = torch.zeros_like(with_exact)
    squares: list[float] = []
    for draw in draws:
        each = coefficients(objective, draw, world, scores)
        mean += draw.chance @ each / len(draws)
        if len(squares) < DRAWS_OF_VARIANCE:
            squares.append(float(draw.chance @ ((each @ products) * each).sum(dim=1)))
    length = float(mean @ products @ mean) ** 0.5
    exact = world.exact_square[policy] ** 0.5
    along = float(mean @ with_exact)
    bias = max(length**2 - 2 * along + exact**2, 0.0) ** 0.5 / exact
    variance = (sum(squares) / len(squares) - length**2) / length**2
    return {"cosine": along / (length * exact), "bias": bias, "variance": variance}


def drawn(world: World, name: str, options: dict[str, Any], number: int) -> list[Draw]:
    """Returns some draws of the views, or one draw if all are equal."""
    samples = world.samples(replays=name in REPLAYS)
    draws = [Draw.make(name, options, samples, 0), Draw.make(name, options, samples, 1)]
    if torch.equal(draws[0].place, draws[1].place):
        return draws[:1]
    return draws + [Draw.make(name, options, samples, i) for i in range(2, number)]


def measure(num_models: int, num_draws: int) -> list[dict[str, Any]]:
    """Returns the results of all combinations, as means over the models."""
    estimators, objectives = methods()
    results: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for sampler in SAMPLERS:
        for guided in (False, True) if sampler == "image, guided" else (False,):
            what = f"{sampler}, scored guided" if guided else sampler
            for seed in range(num_models):
                world = World.make(sampler, guided, seed)
                for estimator, (name, options) in estimators.items():
                    draws = drawn(world, name, options, num_draws)
                    passes = sum(draw.passes for draw in draws) / len(draws) * (2 if guided else 1)
                    for objective, (file, settings) in objectives.items():
                        for policy in world.policies:
                            found = measured(world, draws, load_objective(file, settings), policy)
                            key = (what, estimator, objective, policy)
                            results.setdefault(key, []).append({**found, "passes": passes})
    return [
        {
            "sampler": what, "estimator": estimator, "objective": objective, "policy": policy,
            **{name: float(f"{sum(one[name] for one in values) / len(values):.4g}") for name in values[0]},
        }
        for (what, estimator, objective, policy), values in results.items()
    ]  # fmt: skip


INTRODUCTION = """# Gradients of the estimators

`python tests/benchmarks/estimators.py` writes this page. It compares the gradient of an estimator and an objective
with the exact gradient of the sampler's expected reward. The models generate three tokens from a vocabulary of four,
so that all trajectories of the sampler can be enumerated. Numbers are means over {models} random models and rewards,
with {draws} draws of the views of every trajectory.

Each cell has the cosine between the mean gradient and the exact one, and in parentheses the relative noise of one
response: the standard deviation of its gradient divided by the norm of the mean. `passes` is the number of masked
views of a response, each of which takes a forward and a backward pass; with guided scoring, each view counts twice.
The advantage is the reward minus the exact mean, the loss is the sum over the tokens, and there is no KL. In the
tables "after a move", the policy was trained towards a higher reward after it generated the samples, until its
log-probabilities changed by {move} nats on average, so that some ratios are clipped.
`tests/benchmarks/results/cpu/estimators.json` also has the bias: the norm of the difference to the exact gradient,
relative to the norm of the exact gradient.

A cosine of 1 does not mean that a method learns fastest; see [Algorithms](algorithms.md).
"""


def page(result: Mapping[str, Any]) -> str:
    """Returns the page of the documentation."""
    found = result["gradients"]
    parts = [INTRODUCTION.format(models=result["models"], draws=result["draws"], move=MOVE)]
    for policy in dict.fromkeys(one["policy"] for one in found):
        for sampler in dict.fromkeys(one["sampler"] for one in found):
            chosen = [one for one in found if one["sampler"] == sampler and one["policy"] == policy]
            objectives = list(dict.fromkeys(one["objective"] for one in chosen))
            lines = [["estimator", "passes", *objectives], ["---"] * (2 + len(objectives))]
            for estimator in dict.fromkeys(one["estimator"] for one in chosen):
                own = {one["objective"]: one for one in chosen if one["estimator"] == estimator}
                cells = [f"{own[o]['cosine']:.2f} ({max(own[o]['variance'], 0) ** 0.5:.1f})" for o in objectives]
                lines.append([estimator, f"{own[objectives[0]]['passes']:.1f}", *cells])
            table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
            parts.append(f"## {sampler[0].upper()}{sampler[1:]}, {policy}\n\n{table}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2, help="Number of random models and rewards.")
    parser.add_argument("--draws", type=int, default=8, help="Number of draws of the views of every trajectory.")
    parser.add_argument("--docs_only", action="store_true", help="Only write the page from existing results.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.docs_only:
        found = measure(arguments.models, arguments.draws)
        write("estimators", [], models=arguments.models, draws=arguments.draws, gradients=found)
    PAGE.write_text(page(json.loads((RESULTS / "cpu" / "estimators.json").read_text())))


if __name__ == "__main__":
    main()
