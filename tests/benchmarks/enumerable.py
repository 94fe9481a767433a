"""Enumerates all trajectories of samplers of three tokens, and computes their exact expected reward."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from unigrpo.algorithm.likelihood.base import Row
from unigrpo.models.guidance import guide
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM

LENGTH, NUM_TOKENS = 3, 4
MASK, PROMPT, EMPTY_PROMPT = 4, 5, 6
Sampler = Literal["text, random order", "text, low confidence", "image", "image, guided"]
SAMPLERS: tuple[Sampler, ...] = ("text, random order", "text, low confidence", "image", "image, guided")
GUIDANCE_SCALE = 2.0
CONTEXTS = list(itertools.product(range(NUM_TOKENS + 1), repeat=LENGTH))
"""Partly masked responses, in which the number NUM_TOKENS is the mask token."""
PLACE = {context: number for number, context in enumerate(CONTEXTS)}
RESPONSES = list(itertools.product(range(NUM_TOKENS), repeat=LENGTH))
EMPTY = (NUM_TOKENS,) * LENGTH


def make_model(seed: int) -> MMadaModelLM:
    """Returns a random model whose predictions depend strongly on its input."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"d_model": 16, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 32, "init_std": 0.5}
    config = MMadaConfig(vocab_size=7, mask_token_id=MASK, attn_implementation="eager", **sizes)
    return MMadaModelLM(config).double().eval()


def log_prob_table(model: MMadaModelLM, guidance_scale: float = 0.0) -> Tensor:
    """Returns the log-probabilities (contexts, LENGTH, NUM_TOKENS) of every token at every position in every context.

    They have a gradient.
    """

    def logits(prompt: int) -> Tensor:
        rows = torch.tensor([[prompt, *context] for context in CONTEXTS])
        return model(rows).logits[:, 1:, :NUM_TOKENS]

    given = logits(PROMPT)
    if guidance_scale > 0:
        given = guide(given, logits(EMPTY_PROMPT), guidance_scale)
    return given.log_softmax(-1)


def jacobian(table: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Returns the gradients (entries, parameters) of all entries of a table."""
    flat = table.flatten()
    seeds = torch.eye(len(flat), dtype=flat.dtype)
    parts = [
        torch.autograd.grad(flat, list(parameters), part, retain_graph=True, is_grads_batched=True)
        for part in seeds.split(250)
    ]
    return torch.cat([torch.cat([one.flatten(1) for one in part], dim=1) for part in parts])


@dataclass(frozen=True)
class Step:
    """A possible denoising step of a sampler: the tokens that it fixes, and its probability."""

    probability: Tensor
    tokens: tuple[tuple[int, int], ...]
    """Position and value of each token."""


def next_steps(context: tuple[int, ...], table: Tensor, sampler: Sampler) -> list[Step]:
    """Returns all possible steps in a context. Their probabilities add up to 1 and have the gradient of the table."""
    left = [place for place in range(LENGTH) if context[place] == NUM_TOKENS]
    chances = table[PLACE[context]].exp()
    if sampler == "text, random order":
        return [Step(chances[i, v] / len(left), ((i, v),)) for i in left for v in range(NUM_TOKENS)]
    number = 1
    if sampler.startswith("image") and len(left) < LENGTH:
        number = len(left)  # the second of two steps fixes all masked tokens
    steps: list[Step] = []
    for drawn in itertools.product(range(NUM_TOKENS), repeat=len(left)):
        pairs = list(zip(left, drawn, strict=True))
        probability = torch.stack([chances[pair] for pair in pairs]).prod()
        surest = sorted(pairs, key=lambda pair: (-chances[pair].item(), pair[0]))[:number]
        steps.append(Step(probability, tuple(sorted(surest))))
    return merged(steps)


def merged(steps: Sequence[Step]) -> list[Step]:
    """Adds up the probabilities of steps with the same result."""
    found: dict[tuple[tuple[int, int], ...], Tensor] = {}
    for step in steps:
        found[step.tokens] = found[step.tokens] + step.probability if step.tokens in found else step.probability
    return [Step(probability, tokens) for tokens, probability in found.items()]


def written(context: tuple[int, ...], step: Step) -> tuple[int, ...]:
    """Returns the context after a step."""
    tokens = list(context)
    for place, token in step.tokens:
        tokens[place] = token
    return tuple(tokens)


def expected_reward(rewards: Tensor, table: Tensor, sampler: Sampler) -> Tensor:
    """Returns the exact mean reward over all trajectories of the sampler, with the gradient of the table."""
    known: dict[tuple[int, ...], Tensor] = dict(zip(RESPONSES, rewards, strict=True))

    def value(context: tuple[int, ...]) -> Tensor:
        if context not in known:
            steps = next_steps(context, table, sampler)
            known[context] = torch.stack([step.probability * value(written(context, step)) for step in steps]).sum()
        return known[context]

    return value(EMPTY)


@dataclass(frozen=True)
class Trajectory:
    """A trajectory of the sampler that ends in a response."""

    row: Row
    response: int
    """Index in :data:`RESPONSES`."""
    probability: float


def trajectories(table: Tensor, sampler: Sampler) -> list[Trajectory]:
    """Returns all trajectories with their probabilities."""
    table = table.detach()
    entropies = -(table.exp() * table).sum(dim=-1)
    found: list[Trajectory] = []

    def go_on(context: tuple[int, ...], probability: float, steps: list[tuple[tuple[int, ...], Step]]) -> None:
        if NUM_TOKENS not in context:
            found.append(
                Trajectory(_row(context, steps, table, entropies, sampler), RESPONSES.index(context), probability)
            )
            return
        for step in next_steps(context, table, sampler):
            go_on(written(context, step), probability * step.probability.item(), [*steps, (context, step)])

    go_on(EMPTY, 1.0, [])
    return found


def _row(
    response: tuple[int, ...],
    steps: Sequence[tuple[tuple[int, ...], Step]],
    table: Tensor,
    entropies: Tensor,
    sampler: Sampler,
) -> Row:
    is_response = torch.tensor([False] + [True] * LENGTH)
    commit_step = torch.full((LENGTH + 1,), -1)
    log_probs, entropy = torch.zeros(LENGTH + 1), torch.zeros(LENGTH + 1)
    for number, (context, step) in enumerate(steps):
        for place, token in step.tokens:
            commit_step[place + 1] = number
            log_probs[place + 1] = table[PLACE[context], place, token]
            entropy[place + 1] = entropies[PLACE[context], place]
    return Row(
        token_ids=torch.tensor([PROMPT, *response]),
        response_mask=is_response,
        scored_mask=is_response,
        image_mask=is_response if sampler.startswith("image") else torch.zeros_like(is_response),
        span=is_response.long(),
        commit_step=commit_step,
        commit_log_probs=log_probs,
        commit_entropy=entropy,
    )
