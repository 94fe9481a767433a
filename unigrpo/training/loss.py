"""The loss of a run: the objective and the KL penalty that its config names, and how they are reduced."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from unigrpo.algorithm.entries import Columns, Counts, Entries
from unigrpo.algorithm.loss_sums import Sums
from unigrpo.algorithm.objective.base import KLPenalty, Objective, load_objective, total_loss
from unigrpo.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of a run."""

    objective: Objective
    kl: KLPenalty
    reduction: str

    @classmethod
    def of_run(cls, config: RunConfig) -> Loss:
        """The loss that the config describes."""
        objective = config.algo.objective
        return cls(
            objective=load_objective(objective.name, objective.arguments),
            kl=KLPenalty(estimator=config.algo.kl.estimator, level=config.algo.kl.level),
            reduction=config.actor.loss_agg_mode,
        )

    @property
    def has_exact_kl(self) -> bool:
        """Whether the KL is that of whole distributions, computed in the passes of the update."""
        return self.kl.estimator == "exact"

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels of the units that are reduced."""
        return tuple(dict.fromkeys((self.objective.level, self.kl.level)))

    def __call__(self, entries: Entries, columns: Columns, counts: Counts) -> tuple[Float[Tensor, ""], Sums]:
        """The partial loss, and the metrics."""
        return total_loss(self.objective, self.kl, entries, columns, counts, self.reduction)
