"""Where the trainer's rollouts come from: the policy's workers, or workers of their own, at once or a step ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from unigrpo.config import RunConfig
from unigrpo.data.prompt_stream import balance_across_ranks
from unigrpo.records import Rollout, SampleRequest
from unigrpo.workers.group import WorkerGroup
from unigrpo.workers.logprob_mismatch import LogprobGap
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.rollout import RolloutWorker


class StalenessError(RuntimeError):
    """Rollouts were written by weights that are further behind than the run allows."""


@runtime_checkable
class RolloutSource(Protocol):
    """Rollouts for each step, and what only the weights that wrote them can say about them."""

    def start(self, step: int, version: int) -> None:
        """Sends the weights, now at ``version``, and starts the rollouts of a step, unless they are started."""
        ...

    def rollouts(self, step: int, version: int) -> list[Rollout]:
        """The started rollouts of a step, whose policy is at ``version``."""
        ...

    def parity(self, rollouts: Sequence[Rollout]) -> list[LogprobGap]:
        """What :meth:`~unigrpo.workers.policy.PolicyWorker.parity` measures."""
        ...

    def old_log_probs(self, rollouts: Sequence[Rollout], checked: bool) -> Sequence[tuple[Tensor, ...] | None]:
        """Log-probabilities under the weights that wrote the rollouts; before the next ones are started.

        Where those are the policy's own, the first inner update computes them again, and they are left out.

        Args:
            rollouts: Of one step.
            checked: Compute them for the first inner update too, so that it can be compared.

        Returns:
            For each rollout, those of each inner update, see :func:`unigrpo.training.scoring.score`; None for none.
        """
        ...


class ColocatedRollouts:
    """The policy's workers generate, so there is nothing to send and nothing to overlap."""

    def __init__(
        self, config: RunConfig, policy: WorkerGroup, requests: Callable[[int], Sequence[SampleRequest]]
    ) -> None:
        """Args:
        config: The run.
        policy: The policy's workers.
        requests: What to draw at a step.
        """
        self.config, self.policy, self.requests = config, policy, requests

    def start(self, step: int, version: int) -> None:
        return None

    def rollouts(self, step: int, version: int) -> list[Rollout]:
        settings = self.config.rollout
        return self.policy.map(PolicyWorker.generate, self.requests(step), settings.text, settings.image)

    def parity(self, rollouts: Sequence[Rollout]) -> list[LogprobGap]:
        return self.policy.map(PolicyWorker.parity, rollouts)

    def old_log_probs(self, rollouts: Sequence[Rollout], checked: bool) -> Sequence[tuple[Tensor, ...] | None]:
        number = self.config.train.num_inner_updates
        if number == 1 and not checked:
            return [None] * len(rollouts)
        return self.policy.map(PolicyWorker.log_likelihood, rollouts, list(range(0 if checked else 1, number)))


class DisaggregatedRollouts(ColocatedRollouts):
    """Rollout workers generate with the newest weights, or ahead of time with those of the step before.

    A rollout's weights stay on the workers until the next :meth:`start`. So ratios are always those to the policy that
    wrote the rollout, however old it is: stale rollouts are corrected for, and never taken for fresh ones.
    """

    def __init__(
        self,
        config: RunConfig,
        policy: WorkerGroup,
        requests: Callable[[int], Sequence[SampleRequest]],
        workers: WorkerGroup,
    ) -> None:
        super().__init__(config, policy, requests)
        self.workers = workers
        self._version = 0
        """Of the policy, when rollouts were last asked for."""
        self._held: int | None = None
        """Version of the weights that the workers hold."""
        self._started: tuple[int, Callable[[], list[Rollout]]] | None = None
        """The step whose rollouts are being written, and how to wait for them."""
        self._places: dict[int, int] = {}
        """Where the sample of each number belongs."""

    def start(self, step: int, version: int) -> None:
        if self._started is not None and self._started[0] == step:
            return
        self._send(version)
        settings, requests = self.config.rollout, self.requests(step)
        self._places = {request.sample_id: place for place, request in enumerate(requests)}
        shared = balance_across_ranks(list(requests), self.workers.size)
        self._started = (
            step,
            self.workers.start_map(RolloutWorker.generate, shared, settings.text, settings.image),
        )

    def rollouts(self, step: int, version: int) -> list[Rollout]:
        assert self._started is not None and self._started[0] == step, "start comes first"
        _, wait = self._started
        rollouts, self._started = wait(), None
        self._check(rollouts, version)
        return sorted(rollouts, key=lambda rollout: self._places[rollout.request.sample_id])

    def parity(self, rollouts: Sequence[Rollout]) -> list[LogprobGap]:
        """Fresh rollouts are compared with the policy itself, which also shows that the weights arrived."""
        if self._is_stale(rollouts[0].policy_version):
            return self.workers.map(RolloutWorker.parity, rollouts)
        return super().parity(rollouts)

    def old_log_probs(self, rollouts: Sequence[Rollout], checked: bool) -> Sequence[tuple[Tensor, ...] | None]:
        if self._is_stale(rollouts[0].policy_version):
            return self.workers.map(RolloutWorker.log_likelihood, rollouts)
        return super().old_log_probs(rollouts, checked)

    def _is_stale(self, version: int) -> bool:
        return version != self._version

    def _send(self, version: int) -> None:
        if self._held == version:
            return
        received = self.workers.start_call(RolloutWorker.receive_weights, version)
        sent = self.policy.start_call(PolicyWorker.send_weights)
        received()
        sent()
        self._held = version

    def _check(self, rollouts: Sequence[Rollout], version: int) -> None:
        allowed = self.config.rollout.max_staleness * self.config.train.num_inner_updates
        oldest = min(r.policy_version for r in rollouts)
        if version - oldest > allowed:
            raise StalenessError(
                f"rollouts were written by weights {version - oldest} optimizer steps old, and "
                f"rollout.max_staleness {self.config.rollout.max_staleness} allows {allowed}"
            )
        self._version = version
