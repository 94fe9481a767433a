"""Tests records of a response with two spans."""

from __future__ import annotations

import dataclasses

import torch

from unigrpo.records import Trajectory


def trajectory(tokens: list[int], response: slice, steps: dict[int, int], *, is_image: bool) -> Trajectory:
    """Returns a trajectory whose token at a position has the log-probability -position and the entropy position /
    2."""
    place = torch.arange(len(tokens))
    mask = torch.zeros(len(tokens), dtype=torch.bool)
    mask[response] = True
    commit_step = torch.tensor([steps.get(i, -1) for i in place.tolist()])
    return Trajectory(
        token_ids=torch.tensor(tokens),
        response_mask=mask,
        scored_mask=mask & (commit_step >= 0),
        image_mask=mask if is_image else torch.zeros_like(mask),
        commit_step=commit_step,
        commit_log_probs=-place * (commit_step >= 0).float(),
        commit_entropy=place / 2 * (commit_step >= 0).float(),
    )


THOUGHTS = trajectory([7, 1, 2, 9], slice(1, 4), {1: 1, 2: 0}, is_image=False)  # the last token is padding
IMAGE = trajectory([7, 1, 2, 9, 5, 20, 21, 6], slice(5, 7), {5: 0, 6: 1}, is_image=True)


def test_the_steps_of_an_image_are_counted_from_the_last_one_of_its_thoughts():
    whole = THOUGHTS.followed_by(IMAGE)
    assert whole.token_ids.tolist() == [7, 1, 2, 9, 5, 20, 21, 6]
    assert whole.response_mask.int().tolist() == [0, 1, 1, 1, 0, 1, 1, 0]
    assert whole.scored_mask.int().tolist() == [0, 1, 1, 0, 0, 1, 1, 0]
    assert whole.image_mask.int().tolist() == [0, 0, 0, 0, 0, 1, 1, 0]
    assert whole.text_mask.int().tolist() == [0, 1, 1, 1, 0, 0, 0, 0]
    assert whole.commit_step.tolist() == [-1, 1, 0, -1, -1, 2, 3, -1]
    assert whole.commit_log_probs.tolist() == [0, -1, -2, 0, 0, -5, -6, 0]
    assert whole.commit_entropy is not None
    assert whole.commit_entropy.tolist() == [0, 0.5, 1, 0, 0, 2.5, 3, 0]


def test_a_response_has_no_entropies_if_one_of_its_parts_has_none():
    without = dataclasses.replace(THOUGHTS, commit_entropy=None)
    assert without.followed_by(IMAGE).commit_entropy is None
    assert THOUGHTS.followed_by(dataclasses.replace(IMAGE, commit_entropy=None)).commit_entropy is None
