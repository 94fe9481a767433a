"""The views of a rollout in each inner update. Every worker samples them itself and gets the same views."""

from __future__ import annotations

from dataclasses import fields

from jaxtyping import Int
from torch import Tensor

from unigrpo.algorithm.likelihood.base import LikelihoodEstimator, Row, Views, load_estimator
from unigrpo.algorithm.masking import mask_ratios
from unigrpo.config import TASKS, RunConfig
from unigrpo.records import KeyedTrajectory, Trajectory
from unigrpo.rng import keyed_generator


class ViewSampler:
    """Samples the views of a run's rollouts.

    The views of a sample depend only on (seed, step, sample_id, inner update), and not on world size, rank, order or
    process.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._estimators: dict[str, LikelihoodEstimator] = {}
        for task in TASKS:
            likelihood = config.likelihood(task)
            self._estimators[task] = load_estimator(likelihood.name, likelihood.options)

    def views(self, rollout: KeyedTrajectory, inner_update: int) -> Views:
        """The views of a sample in one inner update."""
        task = rollout.key.task
        ratios = self._config.mask_ratio(task)
        key = (self._config.seed, rollout.key.step, rollout.key.sample_id)
        ratio = mask_ratios(
            ratios.schedule,
            self._config.train.num_inner_updates,
            [keyed_generator(*key, "mask ratio")],
            minimum=ratios.minimum,
            maximum=ratios.maximum,
            shuffle=ratios.shuffle,
        )[inner_update, 0]
        return self._estimators[task].views(
            row_of(rollout),
            ratio.item(),
            keyed_generator(*key, inner_update, "mask"),
            (ratios.minimum, ratios.maximum),
        )


def row_of(rollout: KeyedTrajectory) -> Row:
    """Returns the rollout as the input of an estimator."""
    return Row(**{field.name: getattr(rollout, field.name) for field in fields(Trajectory)}, span=spans_of(rollout))


def spans_of(rollout: KeyedTrajectory) -> Int[Tensor, " L"]:
    """Part of the response in the order of generation, from 1: text comes before an image. 0 elsewhere."""
    text = rollout.response_mask & ~rollout.image_mask
    return text.long() + rollout.image_mask.long() * (1 + int(text.any()))
