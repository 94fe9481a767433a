"""The base class of objectives, which compute a loss for every unit of scored tokens; reduction and KL are shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unigrpo import ConfigError, plugins
from unigrpo.algorithm.entries import Columns, Counts, Entries, Units, per_unit, reduce_units, units
from unigrpo.algorithm.kl import kl_estimate
from unigrpo.algorithm.loss_sums import Sums, by_mask_rate, by_task, mean_of
from unigrpo.config.algo import LEVELS, check_kl_estimator

PACKAGE = "unigrpo.algorithm.objective"
NORMALISATIONS = ("none", "tokens", "weights")


@dataclass(frozen=True, kw_only=True)
class UnitLosses:
    """The loss of every unit."""

    units: Units
    loss: Float[Tensor, " U"]
    """Loss of each unit, with a gradient."""
    log_ratio: Float[Tensor, " U"] | None = None
    """New minus old log-probability in nats, for the metrics, without a gradient. None for an objective without a
    ratio."""
    is_clipped: Bool[Tensor, " U"] | None = None
    """Whether the unit is clipped, so that it has no gradient or one with a clipped weight."""


class Objective(ABC):
    """Turns log-probabilities and advantages into the loss of an inner update."""

    needs: frozenset[str] = frozenset({"old"})
    """The optional log-probabilities that the objective reads, of `old` and `behaviour`; others are not computed."""
    scope: ClassVar[Literal["unit", "group"]] = "unit"
    """Whether the loss of a unit depends only on the unit, or on all samples of its group, which must then be on one
    rank and in one call."""
    level: str
    """The units; see :data:`unigrpo.config.algo.LEVELS`."""

    @abstractmethod
    def losses(self, entries: Entries, columns: Columns) -> UnitLosses:
        """Returns the loss of every unit, without ``loss_coef``.

        Args:
            entries: All entries of whole units, and of whole groups if ``scope`` is `group`.
            columns: Columns of their samples.
        """

    def __call__(self, entries: Entries, columns: Columns, counts: Counts, how: str) -> tuple[Float[Tensor, ""], Sums]:
        """Returns the partial loss and the metrics.

        Args:
            entries: See :meth:`losses`.
            columns: Columns of their samples.
            counts: Counts of the whole batch.
            how: Reduction; see :func:`unigrpo.algorithm.entries.reduce_units`.
        """
        found = self.losses(entries, columns)
        partial_loss = reduce_units(
            columns.loss_coef[found.units.sample] * found.loss, found.units, columns, how, counts
        )
        sums = Sums(totals={"loss/policy": partial_loss.detach().double()})
        if found.log_ratio is not None:
            sums = sums.joined(_ratio_sums(found.log_ratio, found, entries, columns))
        return partial_loss, sums


@dataclass(frozen=True, kw_only=True)
class KLPenalty:
    """``kl_coef`` times the KL to the reference, over its own units."""

    estimator: str = "k3"
    """`k2`, `k3`, or `exact`, which needs ``Entries.exact_kl``."""
    level: str = "token"
    """Whether the estimate of a view, span or sequence is divided by the number of tokens that the unit represents."""

    def __post_init__(self) -> None:
        check_kl_estimator(self.estimator)
        check_level("algo.kl.level", self.level)

    def __call__(self, entries: Entries, columns: Columns, counts: Counts, how: str) -> tuple[Float[Tensor, ""], Sums]:
        """Returns what :meth:`Objective.__call__` returns; the partial loss is 0 without a reference."""
        if entries.ref is None and entries.exact_kl is None:
            nothing = columns.kl_coef.new_zeros(())
            none = torch.zeros(2, dtype=torch.float64, device=nothing.device)
            names = {f"kl/reference_nats/{task}": none for task in columns.tasks}
            return nothing, Sums(
                totals={"loss/kl": nothing.double()}, means={"kl/reference_nats": none}, optional_means=names
            )
        grouped = units(entries, columns, self.level)
        if self.estimator == "exact":
            if entries.exact_kl is None:
                raise ConfigError("algo.kl.estimator exact needs the KL of whole distributions; none was computed")
            kl = per_unit(entries.weight * entries.exact_kl, grouped) / grouped.size
        else:
            assert entries.ref is not None
            reference = entries.ref
            if entries.has_ref is not None:
                reference = torch.where(entries.has_ref, reference, entries.log_probs.detach())
            kl = kl_estimate(per_unit(entries.weight * (reference - entries.log_probs), grouped), self.estimator)
            kl = kl / grouped.size
        counted = _with_reference(entries, grouped)
        factor = (columns.loss_coef * columns.kl_coef)[grouped.sample]
        partial_loss = reduce_units(factor * kl, grouped, columns, how, counts)
        return partial_loss, Sums(
            totals={"loss/kl": partial_loss.detach().double()},
            means={"kl/reference_nats": mean_of(kl[counted])},
            optional_means=by_task("kl/reference_nats", kl, grouped, columns, counted),
        )


def _with_reference(entries: Entries, grouped: Units) -> Bool[Tensor, " U"]:
    """Returns the units whose sample has a reference."""
    if entries.has_ref is None:
        return torch.ones(len(grouped), dtype=torch.bool, device=entries.weight.device)
    return per_unit((~entries.has_ref).to(entries.weight.dtype), grouped) == 0


def total_loss(
    objective: Objective, kl: KLPenalty, entries: Entries, columns: Columns, counts: Counts, how: str
) -> tuple[Float[Tensor, ""], Sums]:
    """Returns the partial loss ``objective + kl_coef * KL`` and the metrics."""
    policy, sums = objective(entries, columns, counts, how)
    penalty, more = kl(entries, columns, counts, how)
    total = policy + penalty
    return total, sums.joined(more).joined(Sums(totals={"loss/total": total.detach().double()}))


def load_objective(name: str, options: Mapping[str, Any]) -> Objective:
    """Builds the objective of the file ``unigrpo/algorithm/objective/<name>.py``.

    Args:
        name: Name of the file.
        options: Keyword arguments of its class.

    Raises:
        ConfigError: There is no such file, or an option is unknown or wrong; the message lists the right ones.
    """
    return plugins.build(PACKAGE, name, Objective, options, setting="algo.objective")


def check_level(setting: str, level: str) -> None:
    """Raises ConfigError unless the level is known; ``setting`` is its config name."""
    if level not in LEVELS:
        raise ConfigError(f"{setting}: no {level!r}; choose one of {list(LEVELS)}")


def checked_normalisation(normalise: str | None, level: str) -> str:
    """Returns the normalisation. If it is None, it is that of the level: `none` for tokens, otherwise `tokens`.

    Raises:
        ConfigError: The normalisation is unknown.
    """
    if normalise is None:
        return "none" if level in ("token", "view_token") else "tokens"
    if normalise not in NORMALISATIONS:
        raise ConfigError(f"algo.objective: normalise: no {normalise!r}; choose one of {list(NORMALISATIONS)}")
    return normalise


def weighted_sum(values: Float[Tensor, " N"], entries: Entries, grouped: Units, normalise: str) -> Float[Tensor, " U"]:
    """Returns the weighted sum over the entries of each unit, which estimates its log-likelihood or log-ratio.

    Args:
        values: Values of the entries.
        entries: Entries with the weights.
        grouped: The units.
        normalise: `none`; `tokens` divides by the number of tokens that a unit represents; `weights` divides by the
            sum of the weights, which gives a weighted mean.
    """
    total = per_unit(entries.weight * values, grouped)
    if normalise == "tokens":
        return total / grouped.size
    if normalise == "weights":
        return total / per_unit(entries.weight, grouped)
    return total


def unit_advantages(entries: Entries, columns: Columns, grouped: Units) -> Float[Tensor, " U"]:
    """Returns the advantage of each unit: that of its sample and span, or the mean over its tokens if they have own
    ones."""
    if entries.token_advantage is None:
        return columns.advantage[grouped.sample, grouped.span]
    ones = torch.ones_like(entries.token_advantage)
    return per_unit(entries.token_advantage, grouped) / per_unit(ones, grouped)


def old_log_probs(entries: Entries) -> Float[Tensor, " N"]:
    """Returns the old log-probabilities of the entries, which must not be None."""
    assert entries.old is not None, "the objective needs old log-probabilities, and none were computed"
    return entries.old


def _ratio_sums(log_ratio: Tensor, found: UnitLosses, entries: Entries, columns: Columns) -> Sums:
    grouped = found.units
    log_ratio = log_ratio.detach().double()
    ratio = log_ratio.exp()
    is_clipped = torch.zeros_like(ratio, dtype=torch.bool) if found.is_clipped is None else found.is_clipped
    clipped = is_clipped.double()
    rate = per_unit(entries.rate, grouped) / per_unit(torch.ones_like(entries.rate), grouped)
    return Sums(
        totals={"tokens/scored": torch.tensor(float(len(grouped)), dtype=torch.float64, device=ratio.device)},
        means={
            "ratio/mean": mean_of(ratio),
            "ratio/square_mean": mean_of(ratio.square()),
            "kl/old_nats": mean_of(kl_estimate(log_ratio, "k3")),
            "ratio/clipped_fraction": mean_of(clipped),
        },
        optional_means={
            **by_mask_rate("ratio/clipped_fraction", is_clipped, rate),
            **by_task("ratio/clipped_fraction", clipped, grouped, columns),
        },
        largest={"ratio/max": ratio.max() if len(ratio) else ratio.new_zeros(())},
    )
