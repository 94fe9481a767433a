"""The base class of likelihood estimators, which mask a finished response in views and weight the masked tokens.

The policy, the old policy and the reference score the same views, so that equal weights give equal likelihoods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo import ConfigError, plugins
from unigrpo.records import Trajectory

PACKAGE = "unigrpo.algorithm.likelihood"


@dataclass(frozen=True, kw_only=True)
class Row(Trajectory):
    """One finished sample of L tokens, without padding of a batch, with the parts of its response."""

    span: Int[Tensor, " L"]
    """Part of the response in the order of generation, from 1: the answer, the image, or the thoughts and then their
    image. 0 outside the response."""

    @property
    def num_spans(self) -> int:
        """Number of parts of the response."""
        return int(self.span.max()) if len(self.span) else 0

    def of_span(self, span: int) -> Row:
        """The row with one part of the response as the whole response; all other tokens count as given."""
        inside = self.span == span
        return replace(
            self,
            response_mask=self.response_mask & inside,
            scored_mask=self.scored_mask & inside,
            image_mask=self.image_mask & inside,
            span=inside.long(),
            commit_step=self.commit_step.masked_fill(~inside, -1),
            commit_log_probs=self.commit_log_probs.masked_fill(~inside, 0.0),
            commit_entropy=None if self.commit_entropy is None else self.commit_entropy.masked_fill(~inside, 0.0),
        )


@dataclass(frozen=True, kw_only=True)
class Views:
    """V masked copies of a row, and the weight of each masked token in each copy."""

    is_masked: Bool[Tensor, "V L"]
    """True where the view has the mask token."""
    weight: Float[Tensor, "V L"]
    """Factor of the token's log-probability in this view, of either sign; 0 means that the view does not score it."""
    rate: Float[Tensor, "V L"]
    """Probability with which this view masks the token, in (0, 1]; it matters only where the token is scored."""

    @property
    def num_views(self) -> int:
        """The number of views, V."""
        return len(self.weight)

    @classmethod
    def joined(cls, parts: Sequence[Views], num_tokens: int) -> Views:
        """Returns the views of all ``parts`` in order. Without parts, it returns no views, of ``num_tokens``
        tokens."""
        nothing = torch.zeros(0, num_tokens)
        return cls(
            is_masked=torch.cat([nothing.bool(), *(part.is_masked for part in parts)]),
            weight=torch.cat([nothing, *(part.weight for part in parts)]),
            rate=torch.cat([nothing, *(part.rate for part in parts)]),
        )


class LikelihoodEstimator(ABC):
    """Computes the masked views of a response.

    A view scores only tokens that it masks. The prompt and the padding after the first end-of-text are never scored. A
    view that masks some of the response also masks this padding, because it would reveal the length of the response.
    """

    bound: ClassVar[Literal["elbo"] | None] = None
    """`elbo` if the expectation of the weighted sum of log-probabilities is the evidence lower bound of the response's
    log-likelihood (the mean over all orders in which its tokens can be generated one at a time)."""

    def views(
        self,
        row: Row,
        mask_ratio: float,
        generator: torch.Generator,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> Views:
        """Returns the views of a row in one inner update.

        A response with several parts is scored part by part in the order of generation: in the views of a part, all
        tokens that were generated before it are visible, padding included, and all that were generated after it are
        masked.

        Args:
            row: The sample.
            mask_ratio: Fraction of the response to mask, within ``bounds``.
            generator: Source of all random numbers of these views.
            bounds: Lowest and highest mask ratio that the run allows.
        """
        if row.num_spans == 1:
            return self.span_views(row, mask_ratio, generator, bounds)
        parts: list[Views] = []
        for span in range(1, row.num_spans + 1):
            part = self.span_views(row.of_span(span), mask_ratio, generator, bounds)
            later = row.response_mask & (row.span > span)
            parts.append(replace(part, is_masked=part.is_masked | later))
        return Views.joined(parts, len(row.token_ids))

    @abstractmethod
    def span_views(
        self, row: Row, mask_ratio: float, generator: torch.Generator, bounds: tuple[float, float]
    ) -> Views:
        """Returns the views of a row whose response is one part. The arguments are those of :meth:`views`."""


def load_estimator(name: str, options: Mapping[str, Any]) -> LikelihoodEstimator:
    """Builds the estimator of the file ``unigrpo/algorithm/likelihood/<name>.py``.

    Args:
        name: Name of the file.
        options: Keyword arguments of its class.

    Raises:
        ConfigError: There is no such file, or an option is unknown or wrong; the message lists the right ones.
    """
    return plugins.build(PACKAGE, name, LikelihoodEstimator, options, setting="algo.likelihood")


def span_views(
    is_masked: Bool[Tensor, "V L"], weight: Float[Tensor, "V L"], rate: float | Float[Tensor, "*_"], row: Row
) -> Views:
    """Returns views that mask some scored tokens and the padding after the first end-of-text.

    Args:
        is_masked: Scored tokens that each view masks.
        weight: Weight of each token in each view; 0 where it is not masked.
        rate: Probability with which each view masks each token, in any shape that broadcasts. In the result it is 1
            where the view does not score the token.
        row: The sample.
    """
    rates = torch.as_tensor(rate, dtype=torch.float32).expand(weight.shape)
    return Views(
        is_masked=is_masked | (row.response_mask & ~row.scored_mask),
        weight=weight,
        rate=torch.where(weight != 0, rates, 1.0),
    )


def unit_ratio(mask_ratio: float, bounds: tuple[float, float]) -> Float[Tensor, ""]:
    """Returns the position of the mask ratio between its bounds, from 0 to 1; 0 if the bounds are equal."""
    low, high = bounds
    ratio = torch.tensor(mask_ratio, dtype=torch.float32)
    return (ratio - low) / (high - low) if high > low else torch.zeros_like(ratio)


def common_bounds(name: str, allowed: tuple[float, float], bounds: tuple[float, float]) -> tuple[float, float]:
    """Returns the bounds of the mask ratios that both the estimator and the run allow.

    Raises:
        ConfigError: There is no such mask ratio.
    """
    low, high = max(allowed[0], bounds[0]), min(allowed[1], bounds[1])
    if low > high:
        raise ConfigError(
            f"{name} takes mask ratios from {allowed[0]} to {allowed[1]}, and algo.mask_ratio allows those from "
            f"{bounds[0]} to {bounds[1]}; change one of them so that they overlap"
        )
    return low, high


def check_masking(name: str, masking: str, allowed: Sequence[str] = ("bernoulli", "exact_count")) -> None:
    """Raises ConfigError unless ``masking`` is one of ``allowed``; ``name`` is the name of the estimator."""
    if masking not in allowed:
        raise ConfigError(f"{name}: no masking {masking!r}; choose one of {sorted(allowed)}")
