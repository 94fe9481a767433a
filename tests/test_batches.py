"""Compares columnar batches with their samples after selecting, splitting, joining, padding and pickling."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from unigrpo.batches import (
    Columnar,
    GeneratedBatch,
    Jagged,
    LogProbs,
    TrainBatch,
    TrajectoryBatch,
    WholeGroups,
)
from unigrpo.image_store import ArrayStore, StoredImage
from unigrpo.records import KeyedTrajectory, Prompt, Rollout, SampleRequest, TrainSample
from unigrpo.workers.group import joined


def rollout(number: int, *, with_entropy: bool = True) -> Rollout:
    """Returns a response of ``number`` tokens, with an image if the number is odd."""
    length = number + 2
    draws = torch.Generator().manual_seed(number)
    written = torch.arange(length) >= 2
    prompt = Prompt(id=f"p{number}", text="t", task="t2i" if number % 2 else "text")
    image = np.full((2, 3, 3), number, dtype=np.uint8)
    return Rollout(
        key=SampleRequest(prompt=prompt, group_id=number // 2, sample_id=number, step=7).key,
        policy_version=number + 10,
        token_ids=torch.randint(0, 2**30, (length,), generator=draws),
        response_mask=written,
        scored_mask=written & (torch.arange(length) % 3 > 0),
        image_mask=written & bool(number % 2),
        commit_step=torch.where(written, torch.randint(0, 9, (length,), generator=draws), -1),
        commit_log_probs=-torch.rand(length, generator=draws),
        commit_entropy=torch.rand(length, generator=draws) if with_entropy else None,
        prompt=prompt,
        completion=f"c{number}",
        raw_completion=f"c{number}<|eot_id|>",
        is_full_length=number % 3 == 0,
        image=StoredImage(ArrayStore([image]), 0) if number % 2 else None,
    )


ROLLOUTS = [rollout(number) for number in range(5)]  # the first one has no token


def assert_equal(got: object, expected: object) -> None:
    """Compares records field by field, and tensors by value and type."""
    if isinstance(expected, Tensor):
        assert isinstance(got, Tensor)
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)
    elif isinstance(expected, StoredImage):
        assert isinstance(got, StoredImage)
        assert np.array_equal(got.pixels(), expected.pixels())
    elif isinstance(expected, list | tuple):
        assert isinstance(got, list | tuple)
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_equal(one, other)
    elif dataclasses.is_dataclass(expected) and not isinstance(expected, Prompt):
        for field in dataclasses.fields(expected):
            assert_equal(getattr(got, field.name), getattr(expected, field.name))
    else:
        assert got == expected


def as_samples(rollouts: list[Rollout]) -> list[KeyedTrajectory]:
    return [
        KeyedTrajectory(**{f.name: getattr(r, f.name) for f in dataclasses.fields(KeyedTrajectory)}) for r in rollouts
    ]


def train_samples() -> list[TrainSample]:
    scores = [tuple(torch.rand(n % (k + 2)) for k in range(3)) for n in range(5)]
    return [
        TrainSample(
            rollout=sample,
            advantages=(0.5 * n, -0.25),
            is_valid=n != 2,
            old_log_probs=scores[n] if n != 1 else None,
            ref_log_probs=None,
        )
        for n, sample in enumerate(as_samples(ROLLOUTS))
    ]


@pytest.mark.parametrize("with_entropy", [True, False])
def test_a_batch_holds_its_samples_bit_for_bit(with_entropy: bool) -> None:
    rollouts = [rollout(number, with_entropy=with_entropy) for number in range(5)]
    assert_equal(TrajectoryBatch.of(rollouts).samples(), as_samples(rollouts))
    assert_equal(GeneratedBatch.of(rollouts).rollouts([r.prompt for r in rollouts]), rollouts)


def test_training_samples_with_and_without_known_log_probabilities_are_kept() -> None:
    samples = train_samples()
    assert_equal(TrainBatch.of(samples).samples(), samples)


@pytest.mark.parametrize("batch", [GeneratedBatch.of(ROLLOUTS), TrainBatch.of(train_samples())])
def test_parts_join_to_the_whole_and_a_selection_is_in_its_order(batch: GeneratedBatch | TrainBatch) -> None:
    def records(one: Columnar) -> list[object]:
        if isinstance(one, TrainBatch):
            return list(one.samples())
        assert isinstance(one, GeneratedBatch)
        return list(one.rollouts([ROLLOUTS[int(key.prompt_id[1:])].prompt for key in one.trajectories.sample_keys()]))

    whole = records(batch)
    for number in (1, 2, 3, 5, 7):  # with seven parts, some have no sample
        parts = batch.split(number)
        assert [len(part) for part in parts] == [-(-5 * (i + 1) // number) + (-5 * i // number) for i in range(number)]
        assert_equal(records(joined(parts)), whole)
    assert_equal(records(batch.select([3, 0, 3])), [whole[3], whole[0], whole[3]])


def test_a_pickled_batch_arrives_bit_for_bit_writable_and_without_the_rest_of_its_batch() -> None:
    batch = TrajectoryBatch.of([rollout(number) for number in range(200)])
    part = batch.split(100)[1]
    sent = pickle.dumps(part, protocol=5)
    assert len(sent) < len(pickle.dumps(batch, protocol=5)) / 20
    got = pickle.loads(sent)
    assert_equal(got.samples(), part.samples())
    got.token_ids.values.zero_()


def test_a_pickled_batch_is_an_array_for_each_column() -> None:
    buffers: list[pickle.PickleBuffer] = []
    pickle.dumps(TrajectoryBatch.of(ROLLOUTS), protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 4 + 2 * 7  # numbers of each sample, and values and lengths of each column


def test_tensors_that_would_lose_their_graph_or_device_are_refused() -> None:
    with pytest.raises(TypeError, match=r"requires_grad=True.*detach"):
        pickle.dumps(Jagged.of([torch.zeros(1, requires_grad=True)]))
    with pytest.raises(TypeError, match="on meta"):
        pickle.dumps(Jagged(torch.zeros(1, device="meta"), torch.tensor([1])))


def test_log_probabilities_of_ranks_without_samples_are_joined() -> None:
    scores = [(torch.tensor([0.5]), torch.tensor([1.0, 2.0]))]
    whole = LogProbs.join([LogProbs.of([]), LogProbs.of(scores), LogProbs.of([])])
    assert_equal(whole.rows(), scores)


def test_samples_with_and_without_entropies_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="1 of 2 samples have entropies"):
        TrajectoryBatch.of([rollout(1), rollout(2, with_entropy=False)])


def test_images_move_to_another_store_in_their_order() -> None:
    batch = GeneratedBatch.of(ROLLOUTS)
    moved = batch.stored(ArrayStore([pixels + 100 for pixels in batch.pixels()]))
    assert [None if image is None else int(image.pixels().max()) for image in moved.images] == [
        None, 101, None, 103, None,
    ]  # fmt: skip


def test_groups_are_not_split():
    """The samples have the groups 0, 0, 1, 1 and 2, and are split into one to four parts."""
    samples = [TrainSample(rollout=one, advantages=(0.0,), is_valid=True) for one in ROLLOUTS]
    batch = WholeGroups.of(samples)

    def parts(number: int) -> list[list[int]]:
        return [part.trajectories.group_ids.tolist() for part in batch.split(number)]

    assert parts(1) == [[0, 0, 1, 1, 2]]
    assert parts(2) == [[0, 0, 1, 1], [2]]
    assert parts(3) == [[0, 0], [1, 1], [2]]
    assert parts(4) == [[0, 0], [1, 1], [2], []]
    assert WholeGroups.of([]).split(2)[1].samples() == []
    assert [s.rollout.key.sample_id for part in batch.split(2) for s in part.samples()] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"3 groups are spread over 4 places; sort the samples by their groups"):
        batch.select([0, 2, 1, 3, 4]).select([0, 2, 3, 4, 1]).split(2)
