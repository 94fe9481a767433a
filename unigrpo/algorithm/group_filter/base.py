"""The base class of group filters, which decide from the rewards of a group whether a step trains on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo import plugins

PACKAGE = "unigrpo.algorithm.group_filter"


class GroupFilter(ABC):
    """Decides which groups of samples a step trains on."""

    @abstractmethod
    def keeps(self, rewards: Float[Tensor, " G"]) -> bool:
        """Whether the step trains on a group.

        Args:
            rewards: Total rewards of the samples of one group whose reward is not missing, at least two.
        """


def load_group_filter(name: str, options: Mapping[str, Any]) -> GroupFilter:
    """Builds the filter of the file ``unigrpo/algorithm/group_filter/<name>.py``.

    Args:
        name: Name of the file.
        options: Keyword arguments of its class.

    Raises:
        ConfigError: There is no such file, or an option is unknown or wrong; the message lists the right ones.
    """
    return plugins.build(PACKAGE, name, GroupFilter, options, setting="algo.group_filter")


def kept_groups(
    rewards: Float[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"],
    group_filter: GroupFilter,
    max_groups: int,
) -> list[int]:
    """Returns the groups that a step trains on: the first that the filter keeps, in the order of the prompts.

    Args:
        rewards: Total reward of each sample for each of S parts of its response. A group is kept if the filter keeps
            the rewards of at least one part.
        group_ids: Number of the prompt of each sample, in the order of the prompts.
        valid: Whether the reward of a sample is not missing. A group with fewer than two such samples cannot be
            compared and is left out.
        group_filter: The filter.
        max_groups: Largest number of groups.

    Returns:
        At most ``max_groups`` group numbers, ascending.
    """
    kept: list[int] = []
    for group in sorted({int(group) for group in group_ids}):
        rows = rewards[(group_ids == group) & valid]
        if len(rows) >= 2 and any(group_filter.keeps(part) for part in rows.unbind(dim=1)):
            kept.append(group)
    return kept[:max_groups]
