"""Columnar batches: the samples of a step as flat tensors with lengths, in which they are sent between processes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from unigrpo.image_store import ImageStore, StoredImage
from unigrpo.records import KeyedTrajectory, Prompt, Rollout, SampleKey, TrainSample

Batch = TypeVar("Batch", bound="Columnar")


class Columnar:
    """A dataclass whose fields are columns of B samples: tensors with one row for each sample, tuples with one entry
    for each sample, other columnar batches of B samples, and None.

    It is pickled with arrays instead of tensors, because torch pickles each tensor as a separate file.
    """

    def __len__(self) -> int:
        """Returns B."""
        raise NotImplementedError

    def select(self: Batch, rows: Sequence[int]) -> Batch:
        """Returns some of the samples as copies, in the order of ``rows``."""
        return replace(self, **{name: _selected(value, rows) for name, value in _columns(self).items()})  # type: ignore[type-var]

    def split(self: Batch, number: int) -> list[Batch]:
        """Returns copies of ``number`` contiguous parts whose lengths differ by at most one."""
        bounds = [-(-len(self) * i // number) for i in range(number + 1)]
        return [self.select(range(a, b)) for a, b in itertools.pairwise(bounds)]

    @classmethod
    def join(cls: type[Batch], parts: Sequence[Batch]) -> Batch:
        """Returns the samples of at least one part in their order.

        Parts without samples are ignored, because they may lack the type of the values or the number of inner updates.
        """
        columns = [_columns(part) for part in parts if len(part)] or [_columns(parts[0])]
        return cls(**{name: _joined([column[name] for column in columns]) for name in columns[0]})

    def __getstate__(self) -> dict[str, Any]:
        """Returns the columns with tensors converted to arrays."""
        return {name: _array(value) for name, value in _columns(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Sets the columns. Arrays are copied, because shared memory is read-only."""
        for name, value in state.items():
            is_array = isinstance(value, np.ndarray)
            object.__setattr__(self, name, torch.from_numpy(value.copy()) if is_array else value)


@dataclass(frozen=True)
class Jagged(Columnar):
    """B rows of different lengths as one flat tensor.

    >>> rows = Jagged.of([torch.tensor([1, 2]), torch.tensor([3])])
    >>> rows.values.tolist(), rows.lengths.tolist()
    ([1, 2, 3], [2, 1])
    """

    values: Shaped[Tensor, " N"]
    """The concatenated rows."""
    lengths: Int[Tensor, " B"]

    @classmethod
    def of(cls, rows: Sequence[Shaped[Tensor, " _"]]) -> Jagged:
        """Concatenates rows. Without rows, the values are float32."""
        values = torch.cat(list(rows)) if rows else torch.zeros(0)
        return cls(values, torch.tensor([len(row) for row in rows], dtype=torch.long))

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self) -> tuple[Shaped[Tensor, " _"], ...]:
        """Returns the rows as views of the flat tensor."""
        return self.values.split(self.lengths.tolist())

    def select(self, rows: Sequence[int]) -> Jagged:
        own = self.rows()
        values = torch.cat([self.values[:0], *(own[i] for i in rows)])
        return Jagged(values, self.lengths[list(rows)])


@dataclass(frozen=True, kw_only=True)
class TrajectoryBatch(Columnar):
    """The responses of B samples, as models score them: their tokens and how they were generated, without texts and
    images."""

    prompt_ids: tuple[str, ...]
    tasks: tuple[str, ...]
    group_ids: Int[Tensor, " B"]
    sample_ids: Int[Tensor, " B"]
    steps: Int[Tensor, " B"]
    policy_versions: Int[Tensor, " B"]
    token_ids: Jagged
    response_mask: Jagged
    scored_mask: Jagged
    image_mask: Jagged
    commit_step: Jagged
    commit_log_probs: Jagged
    commit_entropy: Jagged | None = None
    """None if the samplers did not record them."""

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @classmethod
    def of(cls, samples: Sequence[KeyedTrajectory]) -> TrajectoryBatch:
        """Returns the batch of some samples.

        Raises:
            ValueError: Some samples have entropies and some have none.
        """

        def numbers(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long)

        keys = [sample.key for sample in samples]
        entropies = [sample.commit_entropy for sample in samples if sample.commit_entropy is not None]
        if entropies and len(entropies) < len(samples):
            raise ValueError(f"{len(entropies)} of {len(samples)} samples have entropies; all of them or none must")
        return cls(
            prompt_ids=tuple(key.prompt_id for key in keys),
            tasks=tuple(key.task for key in keys),
            group_ids=numbers([key.group_id for key in keys]),
            sample_ids=numbers([key.sample_id for key in keys]),
            steps=numbers([key.step for key in keys]),
            policy_versions=numbers([sample.policy_version for sample in samples]),
            token_ids=_narrow([sample.token_ids for sample in samples]),
            response_mask=Jagged.of([sample.response_mask for sample in samples]),
            scored_mask=Jagged.of([sample.scored_mask for sample in samples]),
            image_mask=Jagged.of([sample.image_mask for sample in samples]),
            commit_step=_narrow([sample.commit_step for sample in samples]),
            commit_log_probs=Jagged.of([sample.commit_log_probs for sample in samples]),
            commit_entropy=Jagged.of(entropies) if entropies else None,
        )

    def samples(self) -> list[KeyedTrajectory]:
        """Returns the samples one by one; the masks and log-probabilities are views of the batch."""
        entropy = self.commit_entropy.rows() if self.commit_entropy is not None else [None] * len(self)
        columns = zip(
            self.sample_keys(), self.policy_versions.tolist(), self.token_ids.rows(), self.response_mask.rows(),
            self.scored_mask.rows(), self.image_mask.rows(), self.commit_step.rows(), self.commit_log_probs.rows(),
            entropy, strict=True,
        )  # fmt: skip
        return [
            KeyedTrajectory(
                key=key,
                policy_version=version,
                token_ids=token_ids.long(),
                response_mask=response,
                scored_mask=scored,
                image_mask=image,
                commit_step=step.long(),
                commit_log_probs=log_probs,
                commit_entropy=one,
            )
            for key, version, token_ids, response, scored, image, step, log_probs, one in columns
        ]

    def sample_keys(self) -> list[SampleKey]:
        """Returns the names of the samples."""
        columns = zip(
            self.prompt_ids, self.tasks, self.group_ids.tolist(), self.sample_ids.tolist(), self.steps.tolist(),
            strict=True,
        )  # fmt: skip
        return [
            SampleKey(prompt_id=prompt_id, task=task, group_id=group, sample_id=sample, step=step)
            for prompt_id, task, group, sample, step in columns
        ]


@dataclass(frozen=True, kw_only=True)
class GeneratedBatch(Columnar):
    """The samples that a worker generated for B requests.

    The images are in a store, so that workers can keep them in their own memory until they are read.
    """

    trajectories: TrajectoryBatch
    completions: tuple[str, ...]
    raw_completions: tuple[str, ...]
    is_full_length: Bool[Tensor, " B"]
    images: tuple[StoredImage | None, ...]

    def __len__(self) -> int:
        return len(self.completions)

    @classmethod
    def of(cls, rollouts: Sequence[Rollout]) -> GeneratedBatch:
        """Returns the batch of some rollouts."""
        return cls(
            trajectories=TrajectoryBatch.of(rollouts),
            completions=tuple(r.completion for r in rollouts),
            raw_completions=tuple(r.raw_completion for r in rollouts),
            is_full_length=torch.tensor([r.is_full_length for r in rollouts], dtype=torch.bool),
            images=tuple(r.image for r in rollouts),
        )

    def rollouts(self, prompts: Sequence[Prompt]) -> list[Rollout]:
        """Returns the rollouts of some prompts, one for each sample."""
        full = self.is_full_length.tolist()
        columns = zip(
            prompts, self.trajectories.samples(), self.completions, self.raw_completions, full, self.images,
            strict=True,
        )  # fmt: skip
        return [
            Rollout(
                **{f.name: getattr(sample, f.name) for f in fields(KeyedTrajectory)},
                prompt=prompt,
                completion=completion,
                raw_completion=raw,
                is_full_length=is_full,
                image=image,
            )
            for prompt, sample, completion, raw, is_full, image in columns
        ]

    def stored(self, store: ImageStore) -> GeneratedBatch:
        """Returns the batch with its images in another store, which contains the images of :meth:`pixels`."""
        places = itertools.count()
        return replace(self, images=tuple(i and StoredImage(store, next(places)) for i in self.images))

    def pixels(self) -> list[np.ndarray]:
        """Returns the images of the samples that have one, uint8 (H, W, 3)."""
        return [image.pixels() for image in self.images if image is not None]


@dataclass(frozen=True, kw_only=True)
class LogProbs(Columnar):
    """Log-probabilities of B samples in K inner updates, in nats."""

    values: Jagged
    """Log-probabilities of each sample, concatenated over the inner updates."""
    counts: Int[Tensor, "B K"]
    """Number of log-probabilities of each sample in each inner update."""
    is_known: Bool[Tensor, " B"]
    """False for samples whose log-probabilities were not computed."""

    def __len__(self) -> int:
        return len(self.counts)

    @classmethod
    def of(cls, rows: Sequence[tuple[Float[Tensor, " _"], ...] | None]) -> LogProbs:
        """Returns the batch of what :func:`unigrpo.training.scoring.score` returns; None where nothing is known."""
        updates = max((len(row) for row in rows if row is not None), default=0)
        filled = [tuple(torch.zeros(0) for _ in range(updates)) if row is None else row for row in rows]
        return cls(
            values=Jagged.of([torch.cat([torch.zeros(0), *row]) for row in filled]),
            counts=torch.tensor([[len(one) for one in row] for row in filled], dtype=torch.long).view(
                len(rows), updates
            ),
            is_known=torch.tensor([row is not None for row in rows], dtype=torch.bool),
        )

    def rows(self) -> list[tuple[Float[Tensor, " _"], ...] | None]:
        """Returns the log-probabilities of each sample for each inner update; None where nothing is known."""
        columns = zip(self.values.rows(), self.counts.tolist(), self.is_known.tolist(), strict=True)
        return [values.split(counts) if known else None for values, counts, known in columns]


@dataclass(frozen=True, kw_only=True)
class TrainBatch(Columnar):
    """B samples with all data of their K inner updates."""

    trajectories: TrajectoryBatch
    advantages: Float[Tensor, "B S"]
    is_valid: Bool[Tensor, " B"]
    old_log_probs: LogProbs
    behaviour_log_probs: LogProbs
    ref_log_probs: LogProbs

    def __len__(self) -> int:
        return len(self.is_valid)

    @classmethod
    def of(cls, samples: Sequence[TrainSample]) -> TrainBatch:
        """Returns the batch of some samples. All must have one advantage for the response, or all one for each of its
        parts."""
        advantages = torch.tensor([sample.advantages for sample in samples], dtype=torch.float32)
        return cls(
            trajectories=TrajectoryBatch.of([sample.rollout for sample in samples]),
            advantages=advantages if samples else advantages.view(0, 1),
            is_valid=torch.tensor([sample.is_valid for sample in samples], dtype=torch.bool),
            old_log_probs=LogProbs.of([sample.old_log_probs for sample in samples]),
            behaviour_log_probs=LogProbs.of([sample.behaviour_log_probs for sample in samples]),
            ref_log_probs=LogProbs.of([sample.ref_log_probs for sample in samples]),
        )

    def samples(self) -> list[TrainSample]:
        """Returns the samples one by one."""
        columns = zip(
            self.trajectories.samples(), self.advantages.tolist(), self.is_valid.tolist(), self.old_log_probs.rows(),
            self.behaviour_log_probs.rows(), self.ref_log_probs.rows(), strict=True,
        )  # fmt: skip
        return [
            TrainSample(
                rollout=sample,
                advantages=tuple(own),
                is_valid=valid,
                old_log_probs=old,
                behaviour_log_probs=behaviour,
                ref_log_probs=reference,
            )
            for sample, own, valid, old, behaviour, reference in columns
        ]


@dataclass(frozen=True, kw_only=True)
class WholeGroups(TrainBatch):
    """A batch that is split between groups only, for an objective that compares the samples of a group.

    The samples of a group are adjacent.
    """

    def split(self, number: int) -> list[WholeGroups]:
        """Returns copies of ``number`` contiguous parts whose numbers of groups differ by at most one.

        With fewer groups than parts, some parts have no samples.

        Raises:
            ValueError: The samples of a group are not next to each other.
        """
        groups = self.trajectories.group_ids.tolist()
        starts = [i for i, group in enumerate(groups) if i == 0 or groups[i - 1] != group]
        if len(starts) > len(set(groups)):
            raise ValueError(
                f"{len(set(groups))} groups are spread over {len(starts)} places; sort the samples by their groups"
            )
        ends = [*starts, len(groups)]
        bounds = [ends[-(-len(starts) * i // number)] for i in range(number + 1)]
        return [self.select(range(a, b)) for a, b in itertools.pairwise(bounds)]


def _columns(batch: Any) -> dict[str, Any]:
    return {f.name: getattr(batch, f.name) for f in fields(batch)}


def _selected(value: Any, rows: Sequence[int]) -> Any:
    if value is None:
        return None
    if isinstance(value, Columnar):
        return value.select(rows)
    return value[list(rows)] if isinstance(value, Tensor) else tuple(value[i] for i in rows)


def _joined(values: Sequence[Any]) -> Any:
    if values[0] is None:
        return None
    if isinstance(values[0], Columnar):
        return type(values[0]).join(values)
    return torch.cat(list(values)) if isinstance(values[0], Tensor) else tuple(itertools.chain(*values))


def _array(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.device.type != "cpu" or value.requires_grad:
        raise TypeError(
            f"a tensor on {value.device} with requires_grad={value.requires_grad} cannot be sent to another process; "
            "send `tensor.detach().cpu()`"
        )
    return value.numpy()


def _narrow(rows: Sequence[Int[Tensor, " _"]]) -> Jagged:
    """Token ids and steps as 32-bit numbers, which halves the data that is sent."""
    return Jagged.of([row.int() for row in rows])
